import logging
import sys
import threading
import time

import numpy as np
import pytest
from support.api import KEY, api_config, expected_vectors

from data_pipeline.embeddings import Engine, encode, load_embedder
from data_pipeline.embeddings.plan import make_plan
from data_pipeline.errors import ApiError, BudgetSpentError, ConfigError, MissingExtraError
from data_pipeline.testing import misbehaving_server
from data_pipeline.testing.server_state import FAULTS

TEXTS = [f"text number {number} of forty" for number in range(40)]
CHAT_ONLY = {
    "content_filter", "empty_choices", "null_content", "chatter", "wrong_model", "refusal", "no_logprobs",
    "bad_logprobs", "outside_labels",
}  # fmt: skip
CURED = {
    "429", "429_date", "500", "503", "hang", "trickle", "truncated", "garbage", "html", "not_an_object", "reset",
}  # fmt: skip
KEY_REFUSED = {"401", "402", "403", "quota"}
REQUEST_REFUSED = {"400", "422", "context_length"}


def load(server, batch_size=4, **api):
    return load_embedder(api_config(server.base_url, batch_size=batch_size, api=api))


def test_every_fault_is_tried():
    assert set(FAULTS) == CHAT_ONLY | CURED | KEY_REFUSED | REQUEST_REFUSED | {"404"}


@pytest.mark.parametrize("fault", sorted(CURED))
def test_a_failed_call_is_tried_again(fault):
    with misbehaving_server([(range(2, 4), fault)]) as server:
        embedder = load(server, timeout_s=0.5 if fault in {"hang", "trickle"} else 20)
        np.testing.assert_array_equal(encode(embedder, TEXTS), expected_vectors(TEXTS))
        assert len(server.embedding_requests) == 1 + 10 + 2
        usage = embedder.runtime.remote.usage
        assert (usage.calls, usage.failed_calls) == (13, 2)


@pytest.mark.parametrize("fault", sorted(CURED))
def test_a_server_that_only_fails_ends_the_run_at_the_start_or_later(fault):
    limits = {"tries": 2, "timeout_s": 0.3 if fault in {"hang", "trickle"} else 20}
    raises = pytest.raises(ApiError, match=r"http://127.0.0.1:\d+/v1 \(model tiny-judge\): .*\(2 tries\)")
    with misbehaving_server([(range(99), fault)]) as server, raises:
        load(server, **limits)
    with misbehaving_server([(range(2, 99), fault)]) as server:
        embedder = load(server, **limits)
        with pytest.raises(ApiError, match=r"\(2 tries\)\. Vectors computed so far are stored"):
            encode(embedder, TEXTS)


@pytest.mark.parametrize("fault", sorted(KEY_REFUSED))
def test_a_refused_key_ends_the_run_at_once_and_is_not_shown(fault, monkeypatch):
    monkeypatch.setenv("EMBEDDER_KEY", KEY)
    with misbehaving_server([(range(3, 99), fault)], api_key=KEY) as server:
        embedder = load(server, api_key_env="EMBEDDER_KEY", slots=1)
        with pytest.raises(ApiError, match=r"refuses the key in \$EMBEDDER_KEY: HTTP 4") as caught:
            encode(embedder, TEXTS)
        assert len(server.embedding_requests) == 4
    assert KEY not in str(caught.value)


def test_a_server_that_refuses_requests_and_one_without_the_model():
    for fault in REQUEST_REFUSED:
        raises = pytest.raises(ApiError, match="refuses the probe texts: HTTP 4")
        with misbehaving_server([(range(99), fault)]) as server, raises:
            load(server)
    raises = pytest.raises(ApiError, match=r"no such model, or nothing at this address: HTTP 404")
    with misbehaving_server([(range(99), "404")]) as server, raises:
        load(server)


def test_nothing_at_an_address():
    with pytest.raises(ApiError, match=r"http://127.0.0.1:9/v1 \(model tiny-judge\): ConnectError.*\(3 tries\)"):
        load_embedder(api_config())


@pytest.mark.parametrize("fault", [None, "401", "500", "400"])
def test_the_key_goes_to_the_server_and_nowhere_else(fault, monkeypatch, caplog):
    monkeypatch.setenv("EMBEDDER_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    faults = [(range(2, 99), fault)] if fault else []
    with misbehaving_server(faults, api_key=KEY) as server:
        embedder = load(server, api_key_env="EMBEDDER_KEY")
        shown = [repr(embedder.identity), repr(embedder.runtime)]
        if fault:
            with pytest.raises(ApiError if fault != "400" else Exception) as caught:
                encode(embedder, TEXTS)
            chain = [caught.value, caught.value.__cause__, caught.value.__context__]
            shown += [repr(error) + str(error) for error in chain]
        else:
            encode(embedder, TEXTS)
        assert server.with_key == len(server.embedding_requests)
    assert KEY not in "".join(shown) + caplog.text


def test_a_wrong_key_is_not_repeated(monkeypatch):
    monkeypatch.setenv("EMBEDDER_KEY", KEY)
    raises = pytest.raises(ApiError, match=r"Incorrect API key provided: \[key\]")
    with misbehaving_server(api_key="another") as server, raises:
        load(server, api_key_env="EMBEDDER_KEY")


def test_a_key_is_asked_for_by_the_name_of_its_variable(monkeypatch):
    monkeypatch.delenv("EMBEDDER_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"embedding.api.api_key_env: the environment variable EMBEDDER_KEY is not"):
        load_embedder(api_config(api={"api_key_env": "EMBEDDER_KEY"}))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)  # nobody named it
    with misbehaving_server(api_key=KEY) as server, pytest.raises(ApiError, match="refuses a call without a key"):
        load(server)


def test_without_the_package_the_message_has_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingExtraError, match=r'pip install "elm-data-preparation\[api\]"'):
        load_embedder(api_config())


@pytest.mark.parametrize("fault", ["429", "503"])
def test_the_pause_a_server_asks_for_is_kept_by_all_slots(fault):
    with misbehaving_server([(2, fault)], retry_after_s=0.5, latency_s=0.05) as server:
        encode(load(server), TEXTS)
    times = [request.at_s for request in server.embedding_requests]
    answered = times[2] + 0.05
    # Those that were under way when the server asked may still arrive.
    later = [at for at in times[3:] if at > answered + 0.1]
    assert len(later) >= 4
    assert min(later) >= answered + 0.45


def test_a_pause_that_is_too_long_is_left_to_the_next_run():
    with misbehaving_server([(1, "429")], retry_after_s=1000) as server:
        started = time.monotonic()
        with pytest.raises(ApiError, match=r"the server asks to wait 1000 s \(1 tries\)"):
            encode(load(server), TEXTS)
    assert time.monotonic() - started < 10


def test_the_breaker_stops_a_run_that_mostly_fails():
    with misbehaving_server([(lambda number, _: number % 3 > 0, "500")]) as server:
        embedder = load(server, tries=9, breaker_window=10, breaker_share=0.6, slots=1)
        with pytest.raises(ApiError, match=r"of the last 10 calls failed, so the run was stopped\. Most frequent"):
            encode(embedder, TEXTS)
        assert len(server.embedding_requests) < 20
        # A later run with the same embedder starts over.
        server.embedding_requests.clear()
        with pytest.raises(ApiError, match="calls failed, so the run was stopped"):
            encode(embedder, TEXTS)
        assert len(server.embedding_requests) > 5


def test_a_server_that_asks_to_slow_down_does_not_open_the_breaker():
    with misbehaving_server([(lambda number, _: number % 2 == 1, "429")]) as server:
        embedder = load(server, tries=30, breaker_window=4, breaker_share=0.25)
        np.testing.assert_array_equal(encode(embedder, TEXTS), expected_vectors(TEXTS))


def rows_until_error(embedder, error, match):
    """Rows that a run gives before it fails."""
    rows = []

    def run():
        for done, _ in Engine(embedder).run(make_plan(embedder.tokenize(TEXTS)), str):
            rows.extend(done.tolist())

    with pytest.raises(error, match=match):
        run()
    return rows


def test_the_budget_of_calls_counts_every_try_and_what_was_answered_is_kept():
    with misbehaving_server([(2, "500")], latency_s=0.02) as server:
        embedder = load(server, max_calls=6)
        rows = rows_until_error(embedder, BudgetSpentError, r"embedding.api.max_calls: 6 calls were made")
        assert len(server.embedding_requests) == 1 + 6
    assert len(rows) == len(set(rows)) == 5 * 4


def test_the_budget_of_money_is_never_exceeded():
    # Ten requests of 4 x 7 tokens here, of 4 x 7 as the server counts.
    with misbehaving_server(latency_s=0.02) as server:
        embedder = load(server, price_per_million_tokens=1e6, max_cost=200)
        rows = rows_until_error(embedder, BudgetSpentError, r"embedding.api.max_cost: the next call would bring the")
        usage = embedder.runtime.remote.usage
    assert len(rows) >= 8
    assert usage.cost == usage.tokens <= 200


def test_tokens_are_those_that_the_server_counts_or_an_estimate():
    for quirks in ([], ["no_usage"]):
        with misbehaving_server(quirks=quirks) as server:
            embedder = load(server, price_per_million_tokens=2.0)
            before = embedder.runtime.remote.usage.tokens
            encode(embedder, ["12345678"])
            tokens = embedder.runtime.remote.usage.tokens
        assert tokens - before == (2 if quirks else 3)
        assert embedder.runtime.remote.usage.cost == pytest.approx(tokens * 2e-6)


def test_slots_limit_the_calls_of_all_runs_together():
    with misbehaving_server(latency_s=0.03) as server:
        embedder = load(server, slots=3)
        threads = [threading.Thread(target=encode, args=(embedder, TEXTS)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.most_at_once == 3
        assert len(server.embedding_requests) == 1 + 30


def test_a_slow_answer_does_not_hold_the_others_up():
    with misbehaving_server([(1, "hang")]) as server:
        embedder = load(server, batch_size=1, slots=2, timeout_s=1.5, tries=2)
        run = Engine(embedder).run(make_plan(embedder.tokenize(TEXTS)), str)
        started = time.monotonic()
        first = [next(run)[0][0] for _ in range(39)]
        assert time.monotonic() - started < 1.2
        assert len(set(first) | {next(run)[0][0]}) == 40


def test_a_run_that_is_given_up_does_not_wait_for_its_tries():
    with misbehaving_server([(lambda _, text: text.endswith("7 of forty"), "503")], retry_after_s=60) as server:
        embedder = load(server, tries=9)
        run = Engine(embedder).run(make_plan(embedder.tokenize(TEXTS)), str)
        next(run)
        started = time.monotonic()
        run.close()
        assert time.monotonic() - started < 5
    with misbehaving_server() as server:  # and the same embedder can be used again
        assert encode(load(server), TEXTS).shape == (40, 64)


@pytest.mark.parametrize(
    "bad",
    [
        {"base_url": "127.0.0.1:8080"}, {"base_url": "http://me:pw@host/v1"}, {"base_url": "http://host/v1?key=1"},
        {"api_key_env": "sk-123"}, {"slots": 0}, {"max_cost": 1.0}, {"provider": "other"}, {"breaker_share": 0},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        api_config(api=bad)


def test_an_encoding_that_a_provider_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"embedding.api.encoding base64: cohere has only lists"):
        load_embedder(api_config(api={"provider": "cohere", "encoding": "base64"}))
