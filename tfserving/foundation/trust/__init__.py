"""Whose versions are trusted: signatures of OpenSSF Model Signing, verified by its library.

    manifest lists every file ──► signature lists the same files ──► signed by a trusted key, certificate or identity
                              └─► the manifest names this model and this version

A manifest proves that nothing was changed by accident. Whoever can write to a version's folder can write a new
manifest, but not a new signature. The signature covers the manifest, so it covers the model's name and the version's
number: a version that was copied over another one is not accepted.
"""

from __future__ import annotations

from tfserving.foundation.trust.accepted import Accepted as Accepted
from tfserving.foundation.trust.accepted import accept as accept
from tfserving.foundation.trust.keys import check_trust as check_trust
from tfserving.foundation.trust.trusted import Identity as Identity
from tfserving.foundation.trust.trusted import Trust as Trust
from tfserving.foundation.trust.trusted import TrustError as TrustError
