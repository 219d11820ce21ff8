"""URLs that hold a password, a key or a signature: recognized, and written without it."""

import re
from urllib.parse import unquote

# What is one URL in a text, chained ones (``zip://a::https://b``) included.
_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s\"'<>]+")
# ``user:password@``, where the password is not a port; for HTTP a user alone may be a token.
_USER = re.compile(r"(?i)(https?://)[^/?#@\s]+@|([\w+.-]+://)[^/?#@:\s]*:(?!\d+(?:[/?#]|$))[^@\s]*@")
_PARAMETER = re.compile(r"([?&;#])([^=&;#\s]+)=([^&;#\s]+)")
_SECRET_WORDS = ("token", "signature", "secret", "password", "passwd", "credential", "apikey", "accesskey", "accessid")
_SECRET_NAMES = {"sig", "key", "pwd", "pass", "auth", "authorization", "jwt", "code", "policy", "keypairid"}


def holds_secret(text: str) -> bool:
    """Whether a text has a URL with a secret in it."""
    return without_secrets(text) != text


def without_secrets(text: str) -> str:
    """The text with ``…`` in place of what is secret in its URLs."""
    return _URL.sub(_shown, text) if "://" in text else text


def _shown(url: re.Match[str]) -> str:
    def parameter(found: re.Match[str]) -> str:
        name = re.sub(r"[-_.]", "", unquote(found[2])).casefold()
        is_secret = name in _SECRET_NAMES or any(word in name for word in _SECRET_WORDS)
        return f"{found[1]}{found[2]}=…" if is_secret else found[0]

    return _PARAMETER.sub(parameter, _USER.sub(lambda found: f"{found[1] or found[2]}…@", url[0]))
