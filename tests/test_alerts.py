"""The alert rules of cluster/alerts.yaml, evaluated by Prometheus's own promtool over series as Ray exports them."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).parents[1] / "cluster"

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)

UP = {'up{job="ray"}': "1x400"}
SERVED = 'ray_serve_application_status{application="llambert"}'


def series(name: str, run: str = "films", stage: str = "annotate", replica: str = "a", worker: str = "w") -> str:
    """A metric of a replica; Ray adds the id of the worker process."""
    return f'ray_llambert_{name}{{run="{run}",stage="{stage}",replica="{replica}",WorkerId="{worker}"}}'


def requests(status: str) -> str:
    return f'ray_llambert_serve_requests_total{{status="{status}"}}'


def answered_within(seconds: str) -> str:
    return f'ray_llambert_serve_request_seconds_bucket{{le="{seconds}"}}'


# What is planted, a value a minute, and the alerts that fire at some minutes, without "Llambert". In promtool's words
# `0+5x60` grows by 5, `_x9` is absent and `stale` ends a series. Each alert fires in one case and is silent in another
# just below it.
CASES = {
    "nothing runs and nothing ever ran": ({}, {1: "", 60: ""}),
    "a stage that commits a part every ten minutes": (
        {series("replicas"): "1x200", series("records_total"): " ".join(f"{n}x9" for n in range(256, 5120, 256))},
        {50: "", 120: "", 190: ""},
    ),
    "an engine that loads for 25 minutes and then works": (
        {series("replicas"): "1x200", series("records_total"): "_x25 256+9x170"},
        {26: "", 35: "", 60: "", 190: ""},
    ),
    "an engine that loads for more than half an hour": (
        {series("replicas"): "1x200"},
        {29: "", 31: "StageStalled", 100: "StageStalled"},
    ),
    "one part after 25 minutes, another after 50": (
        {series("replicas"): "1x60", series("records_total"): "_x25 256x24 512x30"},
        {35: "", 49: "", 60: ""},
    ),
    "a stage that stops finishing records and keeps its replicas": (
        {series("replicas"): "1x200", series("records_total"): "0+9x60 540x140"},
        {60: "", 100: "", 110: "StageStalled", 190: "StageStalled"},
    ),
    "one replica hangs and another works": (
        {
            series("replicas"): "1x200",
            series("records_total"): "0+9x20 180x180",
            series("replicas", replica="b"): "1x200",
            series("records_total", replica="b"): "0+9x200",
        },
        {190: ""},
    ),
    "a replica in a new process counts from the beginning": (
        {
            series("replicas"): "1x60",
            series("records_total"): "0+9x60 540x140",
            series("replicas", worker="x"): "_x60 1x140",
            series("records_total", worker="x"): "_x65 9+9x135",
        },
        {100: "", 190: ""},
    ),
    "a part of hours on CPUs, read all the while": (
        {series("replicas", stage="label"): "1x300", series("read_records_total", stage="label"): "8192+300x300"},
        {60: "", 290: ""},
    ),
    "a part of which no window is read any more": (
        {series("replicas", stage="label"): "1x300", series("read_records_total", stage="label"): "8192x300"},
        {40: "", 50: "StageStalled"},
    ),
    "a stage that has finished: the nodes still export its counters": (
        {
            series("replicas"): "1x60",
            series("records_total"): "0+9x60 540x340",
            series("errors_total"): "0x60 400x340",
            series("rejected_total"): "0x60 400x340",
        },
        {70: "", 110: "", 400: ""},
    ),
    "replicas whose models work 40 % of the time": (
        {series("busy_share"): "0.4x60", series("busy_share", replica="b"): "0.4x60"},
        {14: "", 16: "ReplicasIdle"},
    ),
    "replicas whose models work 55 % of the time": (
        {series("busy_share"): "0.4x60", series("busy_share", replica="b"): "0.7x60"},
        {60: ""},
    ),
    "3 % of the answers are errors": (
        {series("replicas"): "1x20", series("records_total"): "100+100x60", series("errors_total"): "3+3x20 _x40"},
        {4: "", 6: "EngineErrors", 20: "EngineErrors", 30: ""},
    ),
    "2 % of the answers are errors": (
        {series("replicas"): "1x30", series("records_total"): "100+100x30", series("errors_total"): "2+2x30"},
        {30: ""},
    ),
    "errors of an earlier start, whose replica is gone": (
        {
            series("records_total"): "1000x60",
            series("errors_total"): "900x60",
            series("replicas", replica="b"): "1x60",
            series("records_total", replica="b"): "100+100x60",
        },
        {30: ""},
    ),
    "6 % of the records are rejected": (
        {
            series("replicas", stage="label"): "1x30",
            series("records_total", stage="label"): "100+100x30",
            series("rejected_total", stage="label"): "6+6x30",
        },
        {4: "", 6: "Rejects"},
    ),
    "5 % of the records are rejected": (
        {
            series("replicas", stage="label"): "1x30",
            series("records_total", stage="label"): "100+100x30",
            series("rejected_total", stage="label"): "5+5x30",
        },
        {30: ""},
    ),
    "eleven units begun again, each by a new process": (
        {f'ray_llambert_retries_total{{stage="label",WorkerId="{n}"}}': "_x60 1x100" for n in range(11)},
        {59: "", 62: "UnitsBegunAgain", 85: "UnitsBegunAgain", 95: ""},
    ),
    "eleven units begun again on a node that is lost too": (
        {'ray_llambert_retries_total{stage="label"}': "_x60 11x5 stale"},
        {70: "UnitsBegunAgain", 100: ""},
    ),
    "ten units begun again at once, and one every hour": (
        {
            'ray_llambert_retries_total{stage="label",WorkerId="a"}': "_x60 10x100",
            'ray_llambert_retries_total{stage="label",WorkerId="b"}': "1x90 2x60",
        },
        {62: "", 100: ""},
    ),
    "2 % of the requests end with a 5xx": (
        {requests("200"): "0+98x30", requests("503"): "0+2x30", requests("422"): "0+900x30"},
        {4: "", 8: "EndpointErrors"},
    ),
    "every request ends with a 5xx": ({requests("500"): "1+1x30"}, {4: "", 8: "EndpointErrors"}),
    "1 % of the requests end with a 5xx": ({requests("200"): "0+99x30", requests("500"): "0+1x30"}, {30: ""}),
    "one error and nothing more asked": ({requests("200"): "5x60", requests("500"): "0x9 1x50"}, {12: "", 30: ""}),
    "six connections dropped a second": (
        {'ray_llambert_serve_dropped_connections_total{reason="head"}': "0+360x30"},
        {8: "", 11: "EndpointAttacked"},
    ),
    "ten connections dropped a second, for two reasons": (
        {
            f'ray_llambert_serve_dropped_connections_total{{reason="{reason}"}}': "0+300x30"
            for reason in ("head", "body")
        },
        {30: ""},
    ),
    "2 % of the requests take up to ten seconds": (
        {answered_within("5.0"): "0+98x30", answered_within("10.0"): "0+100x30", answered_within("+Inf"): "0+100x30"},
        {9: "", 13: "EndpointSlow"},
    ),
    "half a percent of the requests takes ten seconds": (
        {answered_within("5.0"): "0+199x30", answered_within("10.0"): "0+200x30", answered_within("+Inf"): "0+200x30"},
        {30: ""},
    ),
    "an endpoint is deployed, serves, and is deleted": (
        {SERVED: "5x5 6x60 4 stale", "ray_llambert_serve_endpoints": "_x5 1x60 stale"},
        {4: "", 60: "", 70: "", 80: "", 300: ""},
    ),
    "an endpoint that cannot be deployed": ({SERVED: "5x5 1x60"}, {10: "", 12: "EndpointDown"}),
    "an endpoint without healthy replicas": (
        {SERVED: "6x5 2x60", "ray_llambert_serve_endpoints": "1x65"},
        {10: "", 12: "EndpointDown"},
    ),
    "an endpoint that is unhealthy for four minutes": (
        {SERVED: "6x5 2x3 6x60", "ray_llambert_serve_endpoints": "1x65"},
        {9: "", 12: ""},
    ),
    "an endpoint whose head node is replaced": (
        {SERVED: "6x60 stale", "ray_llambert_serve_endpoints": "1x60 stale"},
        {60: "", 64: "", 68: "EndpointDown", 300: "EndpointDown"},
    ),
    "an endpoint that another takes over": (
        {
            SERVED: "6x90",
            'ray_llambert_serve_endpoints{WorkerId="a"}': "1x40 stale",
            'ray_llambert_serve_endpoints{WorkerId="b"}': "_x42 1x50",
        },
        {41: "", 60: "", 85: ""},
    ),
    "every node's metrics gone": ({'up{job="ray"}': "1x10 0x60"}, {15: "", 17: "MetricsGone"}),
    "Prometheus knows no node": ({'up{job="ray"}': "stale"}, {4: "", 6: "MetricsGone"}),
    "one of two nodes gone": ({'up{job="ray",instance="a"}': "0x30", 'up{job="ray",instance="b"}': "1x30"}, {30: ""}),
}


def promtool(*arguments: object) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def rules() -> list[str]:
    (group,) = yaml.safe_load((CLUSTER / "alerts.yaml").read_text())["groups"]
    return [rule["alert"] for rule in group["rules"]]


def test_prometheus_reads_its_configuration_and_the_rules():
    assert f"{len(rules())} rules found" in promtool("check", "config", CLUSTER / "prometheus.yaml")


def test_each_alert_fires_at_its_condition_and_is_silent_otherwise(tmp_path):
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": [{"series": one, "values": values} for one, values in planted.items()],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": f"{minute}m",
                    "exp_samples": [
                        {"labels": f'{{alertname="Llambert{alert}"}}', "value": 1} for alert in fire.split()
                    ],
                }
                for minute, fire in expected.items()
            ],
        }
        for name, (of_case, expected) in CASES.items()
        for planted in [of_case if any(one.startswith("up{") for one in of_case) else UP | of_case]
    ]
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": [str(CLUSTER / "alerts.yaml")], "evaluation_interval": "1m", "tests": tests})
    )
    promtool("test", "rules", tmp_path / "test.yaml")
    fired = {
        f"Llambert{alert}" for _, expected in CASES.values() for fire in expected.values() for alert in fire.split()
    }
    assert fired == set(rules())
