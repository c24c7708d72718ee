"""Requests sent as one batch, for half the price and within hours: OpenAI's file form, DashScope's.

In: requests over a ledger. Out: the same answers on the same ledger. A journal beside it knows each
batch, so that a killed run goes on with it. Not done here: which provider has batches, and for how
much (`providers.yaml`).
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson

from medkd.completers.client import LedgerClient
from medkd.completers.endpoint import find_worst_case, make_body, prompt_texts
from medkd.completers.ledger import Ledger
from medkd.completers.outcomes import (
    FATAL,
    RESUME_HINT,
    RETRYABLE,
    AttemptOutcome,
    AttemptResult,
    CircuitBreaker,
    classify_status,
    double_room,
    make_charge,
    over_budget,
)
from medkd.completers.providers import Target, estimate_tokens, find_proxy
from medkd.completers.scheduler import Follow, Labelled, Progress, Report, RunOptions
from medkd.completers.stream import AnswerReader, find_message, find_own_words, load, make_line
from medkd.core.errors import InputError, StoppedError
from medkd.core.jsonl import write_atomically
from medkd.core.records import Request

JOURNAL = "batches.json"
MAX_REQUESTS, MAX_BYTES = 50_000, 90 * 2**20
"""What one file may hold at the strictest of the providers."""
MAX_TRIES = 3
"""Batches in which an item is asked before it is given up in this run."""
POLL_S, MAX_POLL_S = 5.0, 120.0
"""Seconds between two looks at a batch: at first, and at the most."""
ENDED = {"completed", "expired", "cancelled"}
"""States in which there are results to fetch."""
_UNSEEN = {AttemptOutcome.UNKNOWN, AttemptOutcome.INTERRUPTED}
"""How a row ends that was opened and not written."""


def read_journal(path: Path) -> dict[str, Any]:
    """Read the open batches by provider and model; none where there is no journal."""
    try:
        return orjson.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise InputError(
            "{}: is no journal of a batch ({}); move it away: its answers are then asked for again",
            path,
            error,
        ) from error


class Item(NamedTuple):
    """A request on its way, and the record that it is for."""

    key: str
    label: str
    request: Request
    """With more room where the limit cut an earlier answer; `key` is that of the first."""


class BatchClient(LedgerClient):
    """Ask in batches; `run` and `recall` are those of `LedgerClient`."""

    def __init__(
        self,
        target: Target,
        ledger: Ledger,
        options: RunOptions | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        super().__init__(target, ledger, options)
        self._window = target.provider.batch.window if target.provider.batch else ""
        self._poll_s = poll_s
        self._journal = ledger.path.with_name(JOURNAL)
        self._whom = f"{target.name} {target.model}"
        self._session: Any = None
        self._breaker = CircuitBreaker(target, self.options.retry, 1)
        self._fetched = set[str]()
        """Items of the batch that an earlier process left open."""

    def run(
        self,
        labelled: Iterable[tuple[str, Request]],
        n_requests: int,
        follow: Follow = lambda label: (),
    ) -> Progress:
        """Submit what has no answer yet, wait for it, and submit what the answers call for.

        Raises StoppedError when a batch fails or is lost, or the budget does not reach for one more
        answer; InputError when the provider refuses batches.
        """
        try:
            return super().run(labelled, n_requests, follow)
        except KeyboardInterrupt as error:
            raise StoppedError(
                "interrupted; a batch that was submitted goes on at the provider, {}", RESUME_HINT
            ) from error

    async def work_off(
        self, labelled: Labelled, progress: Progress, follow: Follow, report: Report
    ) -> None:
        from aiohttp import ClientSession, ClientTimeout

        headers = {"Authorization": f"Bearer {self.target.key}"} if self.target.key else {}
        timeout = ClientTimeout(total=None, sock_connect=20, sock_read=300)
        tries = Counter[str]()
        async with ClientSession(headers=headers, timeout=timeout) as self._session:
            if batch := read_journal(self._journal).get(self._whom):
                await self._go_on(batch, progress)
            waiting = list(self._take(self._list_items(labelled), progress, follow))
            while waiting:
                some, later = self._choose(waiting)
                await self._collect(await self._submit(some), progress)
                again: list[Item] = []
                fatal: list[AttemptResult] = []
                for item in some:
                    tries[item.key] += 1
                    result = self._read_last(item.key)
                    if self.ledger.is_complete(item.key):
                        progress.n_new += 1
                    elif result.outcome in RETRYABLE and tries[item.key] < MAX_TRIES:
                        again.append(item._replace(request=double_room(item.request, result)))
                        continue
                    else:
                        progress.n_failed += 1
                        progress.last_error = result.error
                        fatal += [result] if result.outcome in FATAL else []
                    again += self._take_called(item.label, progress, follow)
                self._stop_for(fatal, any(self.ledger.is_complete(item.key) for item in some))
                waiting = again + list(self._take(later, progress, follow))
                report(progress)

    def _stop_for(self, fatal: list[AttemptResult], has_answered: bool) -> None:
        """Raise what stops the run, after all lines are counted; where one was answered, a line
        that knows no such path or model speaks for itself alone."""
        for result in fatal:
            if not (has_answered and result.outcome is AttemptOutcome.NOT_AN_ENDPOINT):
                self._breaker.watch(result, 1)

    def _list_items(self, labelled: Iterable[tuple[str, Request]]) -> Iterator[Item]:
        return (Item(self.key_of(request), label, request) for label, request in labelled)

    def _take(self, items: Iterable[Item], progress: Progress, follow: Follow) -> Iterator[Item]:
        """Yield what is to be asked; what the ledger answers calls for the next at once."""
        for item in items:
            if self.ledger.is_complete(item.key):
                progress.n_cached += item.key not in self._fetched
                progress.n_new += item.key in self._fetched
                yield from self._take_called(item.label, progress, follow)
            else:
                yield item

    def _take_called(self, label: str, progress: Progress, follow: Follow) -> Iterator[Item]:
        called = list(follow(label))
        progress.n_added += len(called)
        return self._take(self._list_items(called), progress, follow)

    def _read_last(self, key: str) -> AttemptResult:
        """Return how the last attempt at an item ended."""
        last = self.ledger.attempts_of(key)[-1]
        usage = None if last.is_estimate else last.usage
        return AttemptResult(last.outcome or AttemptOutcome.UNKNOWN, usage=usage, error=last.error)

    def _choose(self, waiting: list[Item]) -> tuple[list[Item], list[Item]]:
        """Choose as many as one file holds, equal ones once, and as the budget covers at their
        worst; the rest is for later."""
        price = self.target.price_at(self.options.clock())
        limit, spent, n_bytes, worst = self.options.budget, self.ledger.spent(), 0, 0.0
        chosen: dict[str, Item] = {}
        later: list[Item] = []
        for number, item in enumerate(waiting):
            if item.key in chosen:
                later.append(item)
                continue
            n_bytes += 4 * sum(map(len, prompt_texts(item.request))) + 1000
            worst += find_worst_case(item.request, None, price)
            is_dear = limit is not None and spent + worst > limit
            if is_dear and not chosen:
                raise over_budget(limit or 0.0, spent, self.target.provider.currency, worst)
            if is_dear or n_bytes > MAX_BYTES or len(chosen) == MAX_REQUESTS:
                later += waiting[number:]
                break
            chosen[item.key] = item
        return list(chosen.values()), later

    # --- The journal: at most one batch of a model is open

    def _write_journal(self, batch: Mapping[str, Any] | None) -> None:
        """Note the open batch of this model; None where it has none any more."""
        batches = read_journal(self._journal) | {self._whom: batch}
        open_ones = {whom: one for whom, one in batches.items() if one}
        if not open_ones:
            self._journal.unlink(missing_ok=True)
            return
        with write_atomically(self._journal, binary=True) as file:
            file.write(orjson.dumps(open_ones))

    # --- One batch

    async def _submit(self, items: list[Item]) -> dict[str, Any]:
        """Send the file and open the batch; the journal knows each step before the next."""
        file_id = await self._upload(b"".join(self._write_line(item) for item in items))
        batch: dict[str, Any] = {
            "file": file_id,
            "items": {i.key: [i.label, estimate_tokens(prompt_texts(i.request))] for i in items},
            "submitted_at": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        self._write_journal(batch)
        body = {
            "input_file_id": file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": self._window,
        }
        code, content = await self._send("POST", "/batches", json=body)
        if 400 <= code < 500:  # it is certain that none was opened
            self._write_journal(None)
        batch["id"] = self._read(code, content, "/batches")["id"]
        self._write_journal(batch)
        n = len(items)
        self._say(f"batch {batch['id']}: {n} requests submitted; a stop now loses nothing")
        return batch

    async def _go_on(self, batch: dict[str, Any], progress: Progress) -> None:
        """Fetch the batch that an earlier process left; a file for which none was opened before a
        kill is forgotten, as what it asks may not be wanted any more."""
        if "id" not in batch:
            listed = (await self._call("/batches?limit=100")).get("data") or ()
            ids = [one["id"] for one in listed if one.get("input_file_id") == batch["file"]]
            if not ids:
                self._write_journal(None)
                return
            batch["id"] = ids[0]
        await self._collect(batch, progress)
        self._fetched.update(batch["items"])

    def _write_line(self, item: Item) -> bytes:
        body = make_body(self.target, item.request)
        body = {k: v for k, v in body.items() if k not in ("stream", "stream_options")}
        url = "/v1/chat/completions"
        row = {"custom_id": item.key, "method": "POST", "url": url, "body": body}
        return orjson.dumps(row) + b"\n"

    async def _collect(self, batch: dict[str, Any], progress: Progress) -> None:
        """Wait for a batch to end, and put its answers on the ledger; then it is forgotten."""
        state = await self._wait(batch)
        if "after" not in batch:  # a kill while it is fetched must put nothing there twice
            batch["after"] = self.ledger.select("SELECT IFNULL(MAX(id), 0) FROM attempts")[0][0]
            self._write_journal(batch)
        left_out = set[str](batch["items"])
        for name in ("output_file_id", "error_file_id"):
            if state.get(name):
                content = await self._download(f"/files/{state[name]}/content")
                for line in content.splitlines():
                    left_out.discard(await self._record(load(line), batch))
        error = {"message": f"not answered in the batch, which is {state.get('status')}"}
        for key in sorted(left_out):
            await self._record({"custom_id": key, "error": error}, batch)
        self._write_journal(None)
        progress.spent = self.ledger.spent()

    async def _wait(self, batch: dict[str, Any]) -> dict[str, Any]:
        pause_s = self._poll_s
        while True:
            state = await self._call(f"/batches/{batch['id']}", batch)
            status = str(state.get("status"))
            counts = state.get("request_counts") or {}
            if status in ENDED:
                return state
            if status == "failed":
                self._write_journal(None)
                words = find_message(state.get("errors")) or "it gives no reason"
                self._stop_if_fatal(0, words)
                raise StoppedError(
                    "batch {}: the provider refuses it ({}); check --model and the sampling "
                    "flags, then {}",
                    batch["id"],
                    make_line(words, self.target.key),
                    RESUME_HINT,
                )
            self._say(f"batch {batch['id']}: {status}, {counts.get('completed', 0)} done")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, MAX_POLL_S)

    async def _record(self, line: Any, batch: Mapping[str, Any]) -> str:
        """Put one line of a result on the ledger; returns its item. One that is of no item of ours,
        or stands there already, is passed over."""
        key = str(cast("dict[str, Any]", line).get("custom_id")) if isinstance(line, dict) else ""
        if key not in batch["items"] or self.ledger.is_complete(key):
            return key
        earlier = self.ledger.attempts_of(key)
        if any(one.id > batch["after"] and one.outcome not in _UNSEEN for one in earlier):
            return key
        label, n_prompt = batch["items"][key]
        result = self._read_result(line)
        price = self.target.price_at(self.options.clock())
        opening = self.ledger.open_attempt(key, label, self.target, n_prompt, price)
        attempt = await asyncio.wrap_future(opening)
        charge = make_charge(result, n_prompt, price)
        await asyncio.wrap_future(self.ledger.close_attempt(attempt, result, charge))
        return key

    def _read_result(self, line: Mapping[str, Any]) -> AttemptResult:
        response = line.get("response")
        if not response:  # it was never answered, and nobody pays for it
            words = make_line(find_message(line.get("error")), self.target.key)
            return AttemptResult(AttemptOutcome.OVERLOADED, error=words or "no answer in it")
        code, body = int(response.get("status_code") or 0), response.get("body")
        if code != 200 or not isinstance(body, dict):
            problem = line.get("error") or body or line
            words = make_line(find_message(problem), self.target.key)
            outcome = classify_status(code, find_own_words(problem)) or AttemptOutcome.STREAM_ERROR
            return AttemptResult(outcome, status=code or None, error=words or "no answer in it")
        reader = AnswerReader(lambda piece, is_reasoning: None, self.target.key)
        reader.feed(orjson.dumps(body))
        result = reader.finish()
        is_complete = result.outcome is AttemptOutcome.COMPLETE
        missing = self.options.find_missing(result.reasoning, result.text) if is_complete else None
        if missing:
            return replace(result, outcome=AttemptOutcome.UNREADABLE, error=missing.words)
        return result

    # --- HTTP

    async def _call(self, path: str, batch: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Fetch JSON; a provider that knows the batch no more has lost it."""
        code, content = await self._send("GET", path)
        if code == 404 and batch is not None:
            self._write_journal(None)
            raise StoppedError(
                "batch {}: the provider knows it no more (submitted {}, {} requests); "
                "look at its bill, then run the same command again: what has no answer "
                "is submitted anew",
                batch["id"],
                batch["submitted_at"],
                len(batch["items"]),
            )
        return self._read(code, content, path)

    async def _upload(self, content: bytes) -> str:
        """Send a file; returns its id."""
        from aiohttp import FormData

        form = FormData({"purpose": "batch"})
        form.add_field("file", content, filename="batch.jsonl", content_type="application/jsonl")
        return self._read(*await self._send("POST", "/files", data=form), "/files")["id"]

    async def _download(self, path: str) -> bytes:
        code, content = await self._send("GET", path)
        if code != 200:
            self._read(code, content, path)
        return content

    async def _send(self, method: str, path: str, **more: Any) -> tuple[int, bytes]:
        """Send one call; no connection, and a server in trouble, are waited out a few times."""
        from aiohttp import ClientError

        url, words = f"{self.target.base_url}{path}", ""
        for pause_s in (1.0, 5.0, 20.0, 0.0):
            try:
                async with self._session.request(
                    method, url, proxy=find_proxy(url), allow_redirects=False, **more
                ) as response:
                    content = await response.read()
                    if response.status < 500 and response.status != 429:
                        return response.status, content
                    words = f"status {response.status}"
            except (ClientError, OSError) as error:
                words = make_line(str(error) or type(error).__name__, self.target.key)
            if method == "POST":  # whether it arrived is not known
                break
            await asyncio.sleep(min(pause_s, 4 * self._poll_s))
        raise StoppedError("{}: {}; check the provider, then {}", url, words, RESUME_HINT)

    def _read(self, code: int, content: bytes, path: str) -> dict[str, Any]:
        body = load(content)
        if code in (200, 201) and isinstance(body, dict):
            return body
        self._stop_if_fatal(code, body)
        words = make_line(find_message(body) if isinstance(body, dict) else "", self.target.key)
        raise InputError(
            "{}{}: no batch API answers there (status {}{}); leave --batch out, or check the "
            "address and the key",
            self.target.base_url,
            path,
            code,
            f", {words}" if words else "",
        )

    def _stop_if_fatal(self, code: int, problem: object) -> None:
        """Raise what stops whatever is asked: a refused key, an empty balance."""
        outcome = classify_status(code, find_own_words(problem))
        if outcome is AttemptOutcome.KEY_REFUSED or outcome is AttemptOutcome.NO_BALANCE:
            words = make_line(find_message(problem), self.target.key)
            self._breaker.watch(AttemptResult(outcome, error=words), 1)

    @staticmethod
    def _say(words: str) -> None:
        print(words, file=sys.stderr, flush=True)
