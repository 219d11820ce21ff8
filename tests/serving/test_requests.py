"""What the endpoint accepts and what it refuses, and how requests become calls."""

import asyncio
import json

import pytest

from llambert.serving.requests import Batcher, Limits, Prediction, RequestError, parse_request, render

LIMITS = Limits(max_texts=3, max_text_chars=10, max_request_bytes=1000)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        pytest.param(b"{", 400, "not JSON: Expecting property name", id="cut off"),
        pytest.param(b"", 400, "not JSON", id="empty"),
        pytest.param(b"\xff\xfe\xfa", 400, "not JSON: byte 0 is not UTF-8", id="not UTF-8"),
        pytest.param(b"[" * 100_000, 400, "nested too deeply", id="nested"),
        pytest.param(
            b'{"text": ' + b"[" * 100 + b"]" * 100 + b"}", 400, "nested too deeply", id="nested, and complete"
        ),
        pytest.param(b'{"text": ' + b"1" * 10_000 + b"}", 400, "a number of 10,000 digits", id="digits"),
        pytest.param(b'{"text": "a", "probabilities": NaN}', 400, "not JSON: NaN is not", id="NaN"),
        pytest.param(b'{"text": -Infinity}', 400, "not JSON: -Infinity is not", id="infinity"),
        pytest.param(b'{"text": "a", "text": "b"}', 422, "a key is given more than once", id="duplicate key"),
        pytest.param(b'{"text": 1e999999}', 422, "found a number", id="huge number"),
        pytest.param(b"[1]", 422, "expected an object .* found a list", id="list"),
        pytest.param(b"null", 422, "found null", id="null"),
        pytest.param(b"{}", 422, 'either "text"', id="nothing asked"),
        pytest.param(b'{"text": "a", "texts": ["a"]}', 422, 'either "text"', id="both"),
        pytest.param(b'{"txt": "a"}', 422, "unknown key 'txt'", id="unknown key"),
        pytest.param(b'{"text": 3}', 422, "text: expected a string, found a number", id="number"),
        pytest.param(b'{"text": null}', 422, "text: expected a string, found null", id="null text"),
        pytest.param(b'{"texts": "a"}', 422, "texts: expected a list of strings, found a string", id="string as list"),
        pytest.param(b'{"texts": []}', 422, "empty", id="no texts"),
        pytest.param(b'{"texts": ["a", {}]}', 422, r"texts\[1\]: expected a string, found an object", id="one wrong"),
        pytest.param(b'{"text": "a", "probabilities": 1}', 422, "probabilities: expected true", id="flag"),
        pytest.param(b'{"texts": ["a", "b", "c", "d"]}', 413, "4 texts; a request may hold 3", id="too many"),
        pytest.param(b'{"texts": ["a", "12345678901"]}', 413, r"texts\[1\]: 11 characters", id="too long"),
    ],
)
def test_what_is_no_request_is_refused_with_its_reason(body, status, reason):
    with pytest.raises(RequestError, match=reason) as caught:
        parse_request(body, LIMITS)
    assert caught.value.status == status


def test_a_refusal_does_not_repeat_what_was_sent():
    with pytest.raises(RequestError) as caught:
        parse_request(b'{"text": "my secret', LIMITS)
    assert "secret" not in caught.value.reason


def test_one_text_is_answered_by_one_label_and_a_list_by_a_list():
    predictions = [Prediction("yes", 0.75, (0.25, 0.75)), Prediction(None, 0.0, (), "empty_text")]
    one = parse_request(b'{"text": "a"}', LIMITS)
    assert render(one, predictions[:1], ["no", "yes"]) == {"label": "yes", "score": 0.75}
    two = parse_request(b'{"texts": ["a", ""], "probabilities": true}', LIMITS)
    assert json.loads(json.dumps(render(two, predictions, ["no", "yes"]))) == {
        "results": [
            {"label": "yes", "score": 0.75, "probabilities": {"no": 0.25, "yes": 0.75}},
            {"label": None, "error": "empty_text"},
        ]
    }


class Replica:
    """Answers each text with itself, when it is let; notes the calls."""

    def __init__(self):
        self.calls, self.may_answer = [], asyncio.Event()

    async def __call__(self, texts):
        self.calls.append(texts)
        await self.may_answer.wait()
        if "poison" in texts:
            raise RuntimeError("the model failed")
        return [Prediction(text, 1.0, ()) for text in texts]


def labels(predictions):
    return [prediction.label for prediction in predictions]


def batching(replica, **limits):
    return Batcher(replica, Limits(**{"batch_wait_s": 5.0, **limits}))


async def begin(batcher, *requests):
    tasks = [asyncio.ensure_future(batcher.label(texts)) for texts in requests]
    await asyncio.sleep(0.01)
    return tasks


def test_what_arrives_while_a_call_is_out_becomes_one_call():
    async def main():
        replica = Replica()
        batcher = batching(replica)
        tasks = await begin(batcher, ["a"], ["b", "c"], ["d"])
        assert replica.calls == [["a"]]
        replica.may_answer.set()
        assert [labels(await task) for task in tasks] == [["a"], ["b", "c"], ["d"]]
        assert replica.calls == [["a"], ["b", "c", "d"]]
        assert batcher.num_waiting == 0

    asyncio.run(main())


def test_a_full_call_goes_out_beside_another_and_no_more_than_allowed_are_out():
    async def main():
        replica = Replica()
        tasks = await begin(batching(replica, max_call_chars=4), ["a"], ["bb", "cc", "dd"], ["eeeeee", "f"])
        assert replica.calls == [["a"], ["bb", "cc"]]
        replica.may_answer.set()
        assert [labels(await task) for task in tasks] == [["a"], ["bb", "cc", "dd"], ["eeeeee", "f"]]
        assert sorted(text for call in replica.calls for text in call) == ["a", "bb", "cc", "dd", "eeeeee", "f"]
        assert all(len(call) == 1 or sum(map(len, call)) <= 4 for call in replica.calls)

    asyncio.run(main())


def test_what_waits_is_shared_out_among_the_replicas_that_are_free():
    async def main():
        replica = Replica()
        batcher = Batcher(replica, Limits(batch_wait_s=5.0), 2, 2)
        tasks = await begin(batcher, ["a", "b", "c", "d", "e"], ["f"])
        assert replica.calls == [["a", "b", "c"], ["d", "e"]]
        replica.may_answer.set()
        assert [labels(await task) for task in tasks] == [["a", "b", "c", "d", "e"], ["f"]]

    asyncio.run(main())


def test_clients_that_were_answered_together_are_called_together_again():
    async def main():
        replica = Replica()
        batcher = Batcher(replica, Limits())
        replica.may_answer.set()

        async def client(name):
            for _ in range(20):
                await batcher.label([name])
                await asyncio.sleep(0.0005 * (ord(name) - ord("a")))

        await asyncio.gather(*(client(name) for name in "abcd"))
        await client("e")
        return replica.calls

    calls = asyncio.run(main())
    assert sum(map(len, calls)) == 100
    assert len(calls) <= 20 + 25  # alone each text of the lone client, four at a time the others


def test_a_text_waits_for_company_no_longer_than_it_may():
    async def main():
        replica = Replica()
        await begin(batching(replica, batch_wait_s=0.05), ["a"], ["b"])
        assert replica.calls == [["a"]]
        await asyncio.sleep(0.1)
        assert replica.calls == [["a"], ["b"]]

    asyncio.run(main())


def test_a_call_that_fails_costs_the_request_that_caused_it_and_no_other():
    async def main():
        replica = Replica()
        tasks = await begin(batching(replica), ["a"], ["poison"], ["b"])
        replica.may_answer.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert labels(outcomes[0]) == ["a"]
        assert str(outcomes[1]) == "the model failed"
        assert labels(outcomes[2]) == ["b"]
        assert replica.calls == [["a"], ["poison", "b"], ["poison"], ["b"]]

    asyncio.run(main())


def test_waiting_characters_are_limited_and_a_single_large_request_is_not():
    async def main():
        replica = Replica()
        batcher = batching(replica, max_held_bytes=10, max_call_chars=1)
        tasks = await begin(batcher, ["a" * 20], ["b" * 20], ["c" * 20])
        with pytest.raises(RequestError, match="20 characters are waiting") as caught:
            await batcher.label(["d"])
        assert caught.value.status == 503
        replica.may_answer.set()
        assert [labels(await task) for task in tasks] == [["a" * 20], ["b" * 20], ["c" * 20]]
        assert labels(await batcher.label(["d"])) == ["d"]

    asyncio.run(main())


def test_too_much_waiting_is_503_and_too_long_waiting_504_and_neither_is_computed():
    async def main():
        replica = Replica()
        batcher = batching(replica, max_waiting_texts=2, timeout_s=0.05, max_text_chars=5)
        tasks = await begin(batcher, ["a"], ["b", "c"])
        with pytest.raises(RequestError) as caught:
            await batcher.label(["d"])
        assert caught.value.status == 503
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [outcome.status for outcome in outcomes] == [504, 504]
        assert batcher.num_waiting == 0
        replica.may_answer.set()
        assert labels(await batcher.label(["e"])) == ["e"]
        assert replica.calls == [["a"], ["e"]]

    asyncio.run(main())
