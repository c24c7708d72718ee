"""A completer that answers from a function: no model and no network.

In: requests. Out: what the function says. Not done here: faults (`demo.teacher` has them over real
HTTP).

>>> from medkd.core.records import Message
>>> echo = Scripted(lambda request: request.messages[-1].content)
>>> echo.complete([Request(messages=(Message(role="user", content="发热"),))])[0].text
'发热'
"""

from collections.abc import Callable, Sequence

from medkd.core.records import Completion, Request


class Scripted:
    """Answers each request with what a function makes of it: a text, or a whole completion."""

    def __init__(self, answer: Callable[[Request], str | Completion]) -> None:
        self._answer = answer
        self.asked: list[Request] = []
        """Every request so far."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        self.asked += requests
        answers = [self._answer(request) for request in requests]
        return [
            Completion(text=answer) if isinstance(answer, str) else answer for answer in answers
        ]
