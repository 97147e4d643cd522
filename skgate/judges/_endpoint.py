"""Asking a chat endpoint for verdicts, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from json import JSONDecodeError
from typing import Any

from skgate.judges._rubric import CORRECTION, RESPONSE_FORMAT, RUBRIC, read_verdict

N_ANSWERS = 3  # to one question, until one is valid
N_FAILURES = 10  # replies without a verdict, before the first that has one
_QUOTED = 20  # characters of a text that a message may not repeat
_ABOUT_ONE_REPLY = (400, 413, 422)  # for example: too long, or stopped by a content filter


class EndpointError(Exception):
    """An error that ends a run, such as a wrong key. It quotes no key, prompt or reply."""


class _RejectedError(Exception):
    """The endpoint does not take a request, but may take others."""


@dataclass
class Asker:
    """Asks a chat endpoint for verdicts.

    Parameters
    ----------
    model : str
        The name of the judging model.
    base_url : str or None
        URL of the endpoint. If None, the client's default.
    api_key : str
        The key.
    timeout : float
        Seconds until a call counts as failed.
    max_retries : int
        The number of times that a failed call is repeated.
    temperature : float or None
        The sampling temperature. If None, none is sent.
    has_verdicts : bool
        Whether the model has given verdicts before.

    Attributes
    ----------
    calls, prompt_tokens, completion_tokens : int
        Answers received and their tokens.
    malformed, rejected : int
        Replies without a verdict, because no answer was valid or the endpoint rejected the request.
    """

    model: str
    base_url: str | None
    api_key: str = field(repr=False)
    timeout: float
    max_retries: int
    temperature: float | None
    has_verdicts: bool
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    malformed: int = 0
    rejected: int = 0
    _rejection: str = ""
    _takes_schema: bool = True

    def ask(
        self,
        questions: Mapping[str, str],
        max_concurrent: int,
        keep: Callable[[str, str | None], None],
    ) -> None:
        """Ask all questions, in an event loop of its own, in another thread.

        Parameters
        ----------
        questions : mapping of str to str
            The user message of each key.
        max_concurrent : int
            The largest number of calls at a time.
        keep : callable
            Called in the other thread with a key and its verdict, as soon as it is there; with None
            if there is none.

        Raises
        ------
        EndpointError
            If an error is final: further calls would fail too, or still failed after
            ``max_retries``.
        """
        _run_in_thread(self._ask_all(questions, max_concurrent, keep))

    def describe_failures(self) -> str:
        """Say how many replies have no verdict, and why."""
        found = []
        if self.malformed:
            found.append(f"{self.malformed} got no valid JSON verdict in {N_ANSWERS} answers")
        if self.rejected:
            found.append(f"{self.rejected} were rejected by the endpoint ({self._rejection})")
        return ", ".join(found)

    async def _ask_all(
        self,
        questions: Mapping[str, str],
        max_concurrent: int,
        keep: Callable[[str, str | None], None],
    ) -> None:
        from openai import AsyncOpenAI

        pending = iter(questions.items())
        async with AsyncOpenAI(
            api_key=self.api_key,
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=self.max_retries,
        ) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(max_concurrent, len(questions))):
                        group.create_task(self._work(client, pending, keep))
            except BaseExceptionGroup as errors:  # the first error has stopped the other tasks
                raise errors.exceptions[0] from None

    async def _work(
        self,
        client: Any,
        pending: Iterator[tuple[str, str]],
        keep: Callable[[str, str | None], None],
    ) -> None:
        for key, question in pending:  # the next that no other task has taken
            verdict = await self._ask_one(client, question)
            keep(key, verdict)
            self.has_verdicts |= verdict is not None
            if not self.has_verdicts and self.malformed + self.rejected >= N_FAILURES:
                raise EndpointError(f"got no verdict from the model: {self.describe_failures()}")

    async def _ask_one(self, client: Any, question: str) -> str | None:
        messages = [{"role": "system", "content": RUBRIC}, {"role": "user", "content": question}]
        correction: list[dict[str, str]] = []
        for _ in range(N_ANSWERS):
            try:
                answer = await self._complete(client, [*messages, *correction])
            except _RejectedError as rejection:
                self.rejected += 1
                self._rejection = str(rejection)
                return None
            verdict = read_verdict(answer)
            if verdict is not None:
                return verdict
            if answer.strip():  # at temperature 0, the same question would get the same answer
                correction = [
                    {"role": "assistant", "content": answer},
                    {"role": "user", "content": CORRECTION},
                ]
        self.malformed += 1
        return None

    async def _complete(self, client: Any, messages: list[dict[str, str]]) -> str:
        """Get an answer that follows the JSON schema if the endpoint supports schemas."""
        if self._takes_schema:
            with suppress(_RejectedError):
                return await self._call(client, messages, response_format=RESPONSE_FORMAT)
        answer = await self._call(client, messages)
        self._takes_schema = False  # it was the schema that the endpoint rejected
        return answer

    async def _call(self, client: Any, messages: list[dict[str, str]], **options: Any) -> str:
        from openai import APIConnectionError, APIStatusError

        if self.temperature is not None:
            options["temperature"] = self.temperature
        try:
            completion = await client.chat.completions.create(
                model=self.model, messages=messages, **options
            )
        except APIStatusError as error:
            described = self._describe(error, messages[1]["content"])
            if error.status_code in _ABOUT_ONE_REPLY:
                raise _RejectedError(described) from None
            raise EndpointError(f"answered with an error ({described})") from None
        except APIConnectionError as error:
            cause = error.__cause__ or error
            raise EndpointError(f"did not answer ({type(cause).__name__})") from None
        except (JSONDecodeError, UnicodeDecodeError):  # the body is no JSON
            completion = None
        self._count(completion)
        try:
            return str(completion.choices[0].message.content or "")
        except (AttributeError, IndexError, TypeError):  # it is no chat completion
            return ""

    def _count(self, completion: Any) -> None:
        self.calls += 1
        usage = getattr(completion, "usage", None)
        self.prompt_tokens += getattr(usage, "prompt_tokens", None) or 0
        self.completion_tokens += getattr(usage, "completion_tokens", None) or 0

    def _describe(self, error: Any, question: str) -> str:
        """Describe a status error, without the key and without parts of the texts."""
        message = error.body.get("message") if isinstance(error.body, dict) else None
        shown = message.replace(self.api_key, "***") if isinstance(message, str) else ""
        if any(shown[i : i + _QUOTED] in question for i in range(len(shown) - _QUOTED + 1)):
            shown = ""
        return f"status {error.status_code}" + (f": {shown:.200}" if shown else "")


def _run_in_thread(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in another thread, whether or not an event loop runs in this one.

    If this thread is interrupted, the coroutine is cancelled.
    """
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()

    async def run() -> None:
        task = asyncio.ensure_future(coroutine)
        started.set_result((asyncio.get_running_loop(), task))
        await task

    with ThreadPoolExecutor(1, thread_name_prefix="skgate-judge") as pool:
        done = pool.submit(asyncio.run, run())
        try:
            done.result()
        except BaseException:
            if not done.done():
                loop, task = started.result()
                with suppress(RuntimeError):  # the loop has just been closed
                    loop.call_soon_threadsafe(task.cancel)
            raise
