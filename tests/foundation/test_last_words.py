"""The last words of a server hold the reason why it ended, whatever else it printed."""

from __future__ import annotations

from tfserving.foundation.last_words import LINES, is_information, last_words

TIME = "2026-11-26 21:05:53.123456: "
POLL = [
    f"{TIME}I tensorflow_serving/model_servers/server_core.cc:474] Adding/updating models.",
    f"{TIME}I tensorflow_serving/model_servers/server_core.cc:602]  (Re-)adding model: digits",
    f"{TIME}I tensorflow_serving/model_servers/server_core.cc:508] Finished adding/updating models",
]
THREAD = "Check failed: ret == 0 (11 vs. 0)Thread tf_ModelDiskSizePool creation via pthread_create() failed."


def test_what_is_printed_at_each_poll_does_not_crowd_out_the_reason() -> None:
    reason = f"{TIME}E tensorflow_serving/util/retrier.cc:46] Loading servable: {{name: digits version: 2}} failed"
    assert last_words([reason, *POLL * 50]) == "    error: Loading servable: {name: digits version: 2} failed"


def test_the_reason_of_an_abort_is_shown_before_a_long_stack_trace() -> None:
    for line in (
        f"{TIME}F external/local_tsl/tsl/platform/default/env.cc:74] {THREAD}",
        f"F0000 00:00:1795692619.990446   27333 env.cc:74] {THREAD}",
        f"F1126 20:14:03.571234 1 env.cc:74] {THREAD}",
    ):
        trace = [f"    @     0x55d0c0ffee{number:02} main" for number in range(40)]
        first, *rest = last_words([line, *trace]).splitlines()
        assert first == f"    fatal: {THREAD}"
        assert [text.strip() for text in rest] == [text.strip() for text in trace[1 - LINES :]]


def test_levels_stay_and_times_and_places_go() -> None:
    printed = [
        f"{TIME}I tensorflow_serving/core/loader_harness.cc:105] Successfully loaded servable version",
        f"{TIME}W external/org_tensorflow/x.cc:1] slow",
        "I0000 00:00:1795692619.990446   27333 y.cc:2] compiled",
        "E0000 00:00:1795692619.990446   27333 y.cc:3] broken",
        "2026-11-26T21:05:53 info: loading model 'digits' version 2",
        "2026-11-26T21:05:53 warning: model 'digits' is old",
        "Failed to start server. Error: Unknown: 1 servable(s) did not become available",
        "",
    ]
    assert last_words(printed).splitlines() == [
        "    Successfully loaded servable version",
        "    warning: slow",
        "    compiled",
        "    error: broken",
        "    loading model 'digits' version 2",
        "    warning: model 'digits' is old",
        "    Failed to start server. Error: Unknown: 1 servable(s) did not become available",
    ]


def test_a_record_that_comes_again_and_again_is_shown_once() -> None:
    again = [
        f"2026-11-26 21:05:{second}.000000: W file_system.cc:9] Could not find base path" for second in range(10, 50)
    ]
    assert last_words(["the reason", *again]).splitlines() == [
        "    the reason",
        "    warning: Could not find base path",
    ]


def test_a_server_without_a_word_is_told() -> None:
    assert last_words(POLL) == last_words([]) == "    it printed nothing"


def test_information_is_told_from_the_rest() -> None:
    assert is_information(POLL[0])
    assert is_information("I0000 00:00:1795692619.990446   27333 y.cc:2] compiled")
    assert not is_information(f"{TIME}W external/org_tensorflow/x.cc:1] slow")
    assert not is_information("2026-11-26T21:05:53 info: loading model 'digits' version 2")
