"""Which parameters an endpoint takes: sent as the recipe says, until the endpoint says that it does not know one.

Reasoning models take ``max_completion_tokens`` alone and no temperature but their own; older servers take
``max_tokens`` alone; TGI takes no ``top_p`` of 1, Mistral no ``seed``, newer Claude models only one of ``temperature``
and ``top_p``. What an endpoint refused once is not sent again.
"""

import re
import threading
from typing import Any

from llambert.engines.openai.faults import Fault
from llambert.errors import InputError
from llambert.recipe import Decoding

_LIMITS = ("max_completion_tokens", "max_tokens")
# In the order in which they are given up where an endpoint takes only one of several.
_OPTIONAL = ("chat_template_kwargs", "top_k", "top_p", "seed", "stop", "temperature")
OF_SERVERS = ("top_k", "chat_template_kwargs")
"""Those that OpenAI's client has no name for: servers of open models take them."""
_REFUSING_CODES = frozenset({
    "unsupported_parameter", "unsupported_value", "extra_forbidden", "unknown_parameter",
    "unrecognized_parameter", "unexpected_keyword_argument",
})  # fmt: skip
_REFUSING = re.compile(
    r"support|unrecogni[sz]ed|unknown|not (?:permitted|allowed|available|a valid|accepted|valid)|extra(?:neous)?\b"
    r"|deprecated|cannot (?:both )?be (?:specified|used|set)|only the default"
    r"|must be (?:strictly |> ?|< ?|positive|1)|does(?: not|n't) (?:accept|allow|take|know)"
    r"|cannot find field|unexpected|invalid|use only one"
    r"|(?:may|can) only be|only \S+ is|fixed|disabled|not implemented|must not|may not",
    re.I,
)
_ONE_OF = re.compile(r"\bboth\b|only one", re.I)
_REFUSING_STATUS = (400, 404, 422, 501)


class Parameters:
    """What is sent with each request; shared by threads. ``notes``: what was left out, a line each."""

    def __init__(
        self,
        decoding: Decoding,
        stop: str | None,
        url: str,
        limit_name: str,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self._decoding, self._url = decoding, url
        self._limit_name, self._limits_left = limit_name, [name for name in _LIMITS if name != limit_name]
        values = {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": decoding.seed,
            "top_k": decoding.top_k or None,
            "stop": [stop] if stop else None,
            "chat_template_kwargs": chat_template_kwargs or None,
        }
        self._values = {name: value for name, value in values.items() if value is not None}
        self._accepted: set[str] = set()
        self._lock = threading.Lock()
        self.notes: list[str] = []

    def current(self) -> dict[str, Any]:
        """Names and values as the next request is to have them."""
        with self._lock:
            return {**self._values, self._limit_name: self._decoding.max_new_tokens}

    def confirm(self, sent: dict[str, Any]) -> None:
        """The endpoint has answered a request with the parameters ``sent``."""
        with self._lock:
            self._accepted.update(sent)

    def drop_refused(self, fault: Fault, sent: dict[str, Any]) -> bool:
        """Whether ``fault`` is about a parameter that was sent and need not be: the request is to be sent again.

        ``InputError`` where the recipe asks for what the endpoint does not take and never took.
        """
        name = _refused_parameter(fault, sent)
        if name is None:
            return False
        with self._lock:
            if name in _LIMITS:
                return self._switch_limit(name, fault)
            return name not in self._values or self._leave_out(name, fault)

    def _switch_limit(self, name: str, fault: Fault) -> bool:
        if name != self._limit_name:
            return True  # another record's request has switched it already
        if name in self._accepted:
            return False
        if not self._limits_left:
            raise InputError(
                f"annotator.decoding.max_new_tokens: {self._url} takes neither {' nor '.join(_LIMITS)}, so no limit "
                f"can be set: {fault.message[:200]}"
            )
        self._limit_name = self._limits_left.pop()
        return True

    def _leave_out(self, name: str, fault: Fault) -> bool:
        value = self._values[name]
        if name == "chat_template_kwargs":
            if name in self._accepted:
                return False
            where = "annotator.chat_template_kwargs"
            raise InputError(f"{where}: {self._url} does not take them: {fault.message[:200]}; leave them out")
        if name == "stop":
            self.notes.append(f"{self._url} takes no stop sequence; it is left out, responses may continue after it")
        elif value != Decoding.model_fields[name].default:
            if name in self._accepted:
                return False
            raise InputError(
                f"annotator.decoding.{name}: {self._url} does not take {value}: {fault.message[:200]}; set it to null "
                "to leave it to the endpoint"
            )
        else:
            self.notes.append(
                f"annotator.decoding.{name}: {self._url} does not take the default {value}; it is left out, the "
                "endpoint's own value applies (null in the recipe says the same)"
            )
        del self._values[name]
        return True


def _refused_parameter(fault: Fault, sent: dict[str, Any]) -> str | None:
    """Which of the parameters ``sent`` the endpoint will not have."""
    if fault.status not in _REFUSING_STATUS:
        return None
    names = [name for name in (*_LIMITS, *_OPTIONAL) if name in sent]
    is_refusing = bool(fault.codes & _REFUSING_CODES or _REFUSING.search(fault.message))
    if named := [name for name in names if name in fault.params and (is_refusing or name in _OPTIONAL)]:
        return named[0]
    found = {name: mention.start() for name in names if (mention := _parameter_pattern(name).search(fault.message))}
    if not is_refusing or not found:
        return None
    # The first that it names: those after it are what it takes, unless it takes one of several.
    return next(iter(found)) if _ONE_OF.search(fault.message) else min(found, key=found.__getitem__)


def _parameter_pattern(name: str) -> re.Pattern[str]:
    if name == "stop":  # an English word too
        quoted, named = r"['\"`]stop['\"`]", r"\bstop (?:parameter|sequence|word)"
        return re.compile(rf"{quoted}|{named}|(?:parameter|argument|model)s?: stop\b")
    return re.compile(rf"\b{name}\b")
