"""Seeds that depend on what they are for, and on nothing that was drawn before."""

import hashlib


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from the parts, the same on every machine."""
    return int(hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:15], 16)
