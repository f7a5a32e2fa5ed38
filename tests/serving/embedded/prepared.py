"""Embedded servers that don't import TensorFlow each: one process imports it, and servers are forked off it.

    python -m tests.serving.embedded.prepared SOCKET                  the process that forks, while its parent lives
    python tests/serving/embedded/prepared.py SOCKET MODULE FLAGS     a server, as `python -m MODULE FLAGS`

MODULE is `tfserving.serving.embedded` or `tests.stand_in`. The second command hands its output, its flags and its log
level to the first one, passes signals on, and ends as its server does. The import is most of what a start costs. Tests
of starting, draining and workers run the server's own command.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import traceback

LONGEST = 1 << 20
# Of the environment a server has this of its own: the log level.
LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def serve(path: str) -> None:
    """Forks a server for each connection to the socket `path`."""
    import socketserver
    import threading

    parent = os.getppid()

    class Server(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            # In a process of its own already, which then waits for the server.
            command, descriptors, _, _ = socket.recv_fds(self.request, LONGEST, 2)
            pid = os.fork()
            if pid == 0:
                module, flags, level = json.loads(command)
                become_server(module, flags, level, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            threading.Thread(target=self.pass_signals_on, args=(pid,), daemon=True).start()
            _, status = os.waitpid(pid, 0)
            with contextlib.suppress(OSError):
                self.request.sendall(str(os.waitstatus_to_exitcode(status)).encode())

        def pass_signals_on(self, pid: int) -> None:
            with contextlib.suppress(OSError):
                while number := self.request.recv(1):
                    os.kill(pid, number[0])
                # Whoever asked for the server was killed.
                os.kill(pid, signal.SIGKILL)

    class Forking(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
        request_queue_size = 64

        def service_actions(self) -> None:
            super().service_actions()
            if os.getppid() != parent:
                sys.exit()

    prepare()
    with Forking(path, Server) as forking:
        forking.serve_forever()


def prepare() -> None:
    """Imports what a server imports; what that begins for good, threads above all, is left to each server."""
    from tfserving.serving.embedded.processes.process import import_tensorflow, prepare_process

    prepare_process()
    import_tensorflow(find_devices=False)
    for module in (
        "tfserving.serving.embedded.processes.serving_process",
        "tfserving.serving.embedded.server",
        "tests.stand_in.server",
    ):
        importlib.import_module(module)


def become_server(module: str, flags: list[str], level: str, descriptors: list[int]) -> None:
    """Runs the server's own command in this process, with the output of whoever asked for it."""
    code = 1
    try:
        for descriptor, number in zip(descriptors, (1, 2), strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.argv[1:] = flags
        if level:
            os.environ[LEVEL] = level
        importlib.import_module(f"{module}.__main__").main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ask(path: str, module: str, flags: list[str]) -> int:
    """Has a server started, and returns its exit code when it has ended; negative for a signal."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
        command = (module, flags, os.environ.get(LEVEL, ""))
        socket.send_fds(connection, [json.dumps(command).encode()], [1, 2])
        return int(connection.recv(64))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    ended = ask(sys.argv[1], sys.argv[2], sys.argv[3:])
    if ended < 0:
        signal.signal(-ended, signal.SIG_DFL)
        os.kill(os.getpid(), -ended)
    sys.exit(ended)
