"""A cluster of this machine that takes jobs."""

import time

from ray.job_submission import JobSubmissionClient

LIMIT_S = 60.0


def wait_for_job_agent(client: JobSubmissionClient) -> None:
    """Until jobs are taken: the dashboard answers some seconds before the agent on its node that starts them."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            client.submit_job(entrypoint="true", submission_id="first")
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
