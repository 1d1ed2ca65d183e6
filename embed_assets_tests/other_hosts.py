"""A run launcher whose workers are on other "hosts", as those of Ray and Kubernetes are.

Each worker is a real one, in a namespace of processes of its own where that is allowed, so that its
pid means nothing here. Unlike theirs, it shares the disk.
"""

import os
import subprocess
from pathlib import Path

import psutil
from dagster._core.launcher.base import CheckRunHealthResult, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass

PRIVATE = ["unshare", "--pid", "--fork", "--kill-child"]


def can_be_private() -> bool:
    """Whether a process may have its own namespace here."""
    return subprocess.run([*PRIVATE, "true"], capture_output=True).returncode == 0


class OtherHosts(RunLauncher, ConfigurableClass):
    """Starts a worker for each run, with the settings of `environment`, and asks for its health.

    The file `environment` has a line `NAME=value` for each setting in which the hosts differ from
    the machine of the daemon.
    """

    def __init__(self, folder, inst_data=None):
        self.folder = Path(folder)
        self._inst_data = inst_data
        super().__init__()

    @property
    def inst_data(self):
        return self._inst_data

    @classmethod
    def config_type(cls):
        return {"folder": str}

    @classmethod
    def from_config_value(cls, inst_data, config_value):
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context):
        run = context.dagster_run
        arguments = ExecuteRunArgs(
            job_origin=context.job_code_origin,
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
        )
        own = self.folder / "environment"
        lines = own.read_text().splitlines() if own.exists() else ()
        environment = os.environ | dict(line.split("=", 1) for line in lines)
        with open(self.folder / f"{run.run_id}.log", "ab") as output:
            worker = subprocess.Popen(
                [*(PRIVATE if can_be_private() else ()), *arguments.get_command_args()],
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._pid_file(run).write_text(str(worker.pid))

    def terminate(self, run_id):
        run = self._instance.get_run_by_id(run_id)
        self._instance.report_run_canceling(run)
        for process in self.processes(run):
            process.terminate()
        return True

    @property
    def supports_check_run_worker_health(self):
        return True

    def check_run_worker_health(self, run):
        alive = self.processes(run)
        return CheckRunHealthResult(WorkerStatus.RUNNING if alive else WorkerStatus.FAILED)

    def processes(self, run):
        """The processes of a run's worker that live."""
        try:
            worker = psutil.Process(int(self._pid_file(run).read_text()))
            if worker.status() == psutil.STATUS_ZOMBIE:
                return []
            return [worker, *worker.children(recursive=True)]
        except (FileNotFoundError, psutil.Error):
            return []

    def _pid_file(self, run):
        return self.folder / f"{run.run_id}.pid"
