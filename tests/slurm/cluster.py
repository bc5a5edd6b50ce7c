"""A real Slurm on loopback: Debian's packages, three nodes with fake GPUs, an accounting database.

Everything lives in one temporary folder: configuration, keys, sockets, database, logs. No systemd and no cgroups are
needed. Outside the folder there is one link, /etc/slurm/slurm.conf, for the time that the cluster is up: the
executor's job step drops every variable that begins with ``SLURM_``, so ``SLURM_CONF`` does not reach its srun. Where
that file exists the machine has a Slurm of its own, and no other is started. All nodes are this machine; each is a
slurmd of its own, so that one can fail.
"""

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "munged", "mariadbd", "mariadb-install-db")
CONFIGURATION = Path("/etc/slurm/slurm.conf")
_FOLDER = "ead-slurm-"
NODES = ("node1", "node2", "node3")
GPUS_PER_NODE = 8
GPU_MODEL = "fake"
NODE_CPUS = 8  # more than the machine has: jobs here mostly wait
NODE_MEMORY_MB = 12000


def missing() -> str | None:
    """Return why no cluster can be started here, or None."""
    if os.getuid() != 0:
        return "starting Slurm needs root"
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    absent = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)} not found): run tests/slurm/install_slurm.sh"
    if CONFIGURATION.exists() and not _left_over():
        return f"this machine has a Slurm of its own, or other tests run one now: {CONFIGURATION}"
    return None


def _left_over() -> bool:
    """The configuration is the link of a session that was killed: its controller is gone."""
    ours = CONFIGURATION.is_symlink() and CONFIGURATION.readlink().parents[1].name.startswith(_FOLDER)
    return ours and not any(process.name() == "slurmctld" for process in psutil.process_iter())


@dataclass
class Cluster:
    """Start with ``with Cluster() as cluster``; ``environment`` is for programs that talk to it."""

    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix=_FOLDER, dir="/tmp")))
    daemons: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))},
            "MYSQL_UNIX_PORT": str(self.root / "run/database.socket"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
        }

    def __enter__(self) -> "Cluster":
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- asking ------------------------------------------------------------------------------------------

    def call(self, *command: str, check: bool = True, timeout_s: float = 60) -> str:
        """Run one of Slurm's commands and return what it prints."""
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment, timeout=timeout_s, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}\n{self.logs()}")
        return done.stdout

    def records(self, *fields: str, folder: Path | None = None) -> list[dict[str, str]]:
        """Return the accounting records of all jobs, every run of a requeued one, in order of their ids."""
        fields = tuple(dict.fromkeys(("JobIDRaw", "WorkDir", *fields)))
        command = [
            "sacct",
            "--allocations",
            "--duplicates",
            "--parsable2",
            "--noheader",
            "--starttime=now-1days",
        ]
        out = self.call(*command, f"--format={','.join(fields)}")
        rows = [dict(zip(fields, line.split("|"), strict=True)) for line in out.splitlines()]
        rows = [row for row in rows if folder is None or row["WorkDir"] == str(folder)]
        return sorted(rows, key=lambda row: int(row["JobIDRaw"]))

    def logs(self) -> str:
        """Return the last lines of the daemons' logs."""
        parts = []
        for path in sorted((self.root / "log").glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-15:]
            parts.append("\n".join([f"--- {path.name}", *lines]))
        return "\n".join(parts)

    # --- disturbing --------------------------------------------------------------------------------------

    def kill_node(self, node: str) -> None:
        """``kill -9`` of everything on a node, as when its power fails; the controller is told at once."""
        slurmd = self.daemons.pop(node)
        for pid in (slurmd.pid, *self._steps(node)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        slurmd.wait()
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def revive_node(self, node: str) -> None:
        self._start_node(node)
        self.call("scontrol", "update", f"nodename={node}", "state=resume")
        self._wait_for(f"{node} to be idle", lambda: self._state(node) in ("idle", "mixed", "allocated"))

    def _state(self, node: str) -> str:
        return self.call(
            "sinfo", "--noheader", "--Node", f"--nodes={node}", "--format=%T", check=False
        ).split("\n")[0]

    def _steps(self, node: str) -> list[int]:
        """Processes of the jobs on a node. A job step's manager outlives its slurmd, and is named after its job."""
        jobs = self.call(
            "squeue", "--noheader", "--states=RUNNING", f"--nodelist={node}", "--format=%A"
        ).split()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                name = (process / "cmdline").read_bytes().decode(errors="replace")
                if any(name.startswith(f"slurmstepd: [{job}.") for job in jobs):
                    found += [int(process.name), *_descendants(int(process.name))]
        return found

    # --- starting and stopping ---------------------------------------------------------------------------

    def _start(self) -> None:
        for name in ("etc", "log", "run", "state", "spool", "devices"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)
        self._write_configuration()
        CONFIGURATION.unlink(missing_ok=True)  # a link to the folder of a session that was killed
        CONFIGURATION.symlink_to(self.root / "etc/slurm.conf")
        self._start_munge()
        self._start_database()
        self._start_daemon("slurmdbd", ["slurmdbd", "-D"])
        self._wait_for(
            "slurmdbd",
            lambda: self.call("sacctmgr", "--noheader", "list", "cluster") is not None,
            RuntimeError,
        )
        self.call("sacctmgr", "--immediate", "add", "cluster", "loopback")
        self._start_daemon("slurmctld", ["slurmctld", "-D", "-i"])
        self._wait_for("slurmctld", lambda: "UP" in self.call("scontrol", "ping", check=False))
        for node in NODES:
            self._start_node(node)
        for node in NODES:
            self._wait_for(f"{node} to be idle", lambda node=node: self._state(node) == "idle")

    def _start_node(self, node: str) -> None:
        self._start_daemon(node, ["slurmd", "-D", "-N", node])

    def _start_daemon(self, name: str, command: list[str], **options) -> None:
        # Should the tests be killed, the daemons end too.
        tied = ["setpriv", "--pdeathsig", "TERM", *command]
        with (self.root / f"log/{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                tied,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment, "SLURM_CONF": str(self.root / "etc/slurm.conf")},
                cwd=self.root,
                **options,
            )

    def _wait_for(
        self, what: str, ready: Callable[[], bool], *ignored: type[Exception], timeout_s: float = 60
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(*ignored):
                if ready():
                    return
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited {timeout_s:.0f} s for {what}\n{self.logs()}")
            time.sleep(0.1)

    def _start_munge(self) -> None:
        key = self.root / "etc/munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        run = self.root / "run"
        self._start_daemon(
            "munged",
            [
                *("munged", "--foreground", "--force"),
                *(f"--key-file={key}", f"--socket={run}/munge.socket", f"--pid-file={run}/munged.pid"),
                *(f"--seed-file={run}/munge.seed", f"--log-file={self.root}/log/munged.log"),
            ],
        )
        self._wait_for("munged", (run / "munge.socket").exists)

    def _start_database(self) -> None:
        data, sock = self.root / "database", self.root / "run/database.socket"
        data.mkdir(exist_ok=True)
        options = ["--no-defaults", "--user=root", f"--datadir={data}"]
        install = [
            "mariadb-install-db",
            *options,
            "--auth-root-authentication-method=socket",
            "--skip-test-db",
        ]
        with (self.root / "log/database-install.log").open("wb") as log:
            subprocess.run(install, stdout=log, stderr=log, check=True, env=self.environment)
        small = ["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--performance-schema=OFF"]
        self._start_daemon(
            "database",
            ["mariadbd", *options, *small, f"--socket={sock}", "--skip-networking", "--skip-log-bin"],
        )
        client = ["mariadb", "--no-defaults", f"--socket={sock}", "--user=root"]
        self._wait_for("the database", lambda: self.call(*client, "-e", "select 1") != "", RuntimeError)
        self.call(*client, "-e", "create database accounting")

    def _write_configuration(self) -> None:
        etc, host = self.root / "etc", socket.gethostname().split(".")[0]
        controller, accounting, *nodes = _free_ports(2 + len(NODES))
        gres = []
        for node in NODES:
            for number in range(GPUS_PER_NODE):
                # slurmd wants a character device whose name ends in a number: another name for /dev/null.
                device = self.root / f"devices/{node}_gpu{number}"
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
                gres.append(f"NodeName={node} Name=gpu Type={GPU_MODEL} File={device}")
        (etc / "gres.conf").write_text("\n".join(gres) + "\n")
        (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        slurmdbd = etc / "slurmdbd.conf"
        slurmdbd.write_text(SLURMDBD_CONF.format(root=self.root, host=host, port=accounting))
        slurmdbd.chmod(0o600)
        resources = f"CPUs={NODE_CPUS} RealMemory={NODE_MEMORY_MB} Gres=gpu:{GPU_MODEL}:{GPUS_PER_NODE}"
        (etc / "slurm.conf").write_text(
            SLURM_CONF.format(
                root=self.root,
                host=host,
                controller=controller,
                accounting=accounting,
                nodes="\n".join(
                    f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} {resources}"
                    for node, port in zip(NODES, nodes, strict=True)
                ),
                names=",".join(NODES),
            )
        )

    def stop(self) -> None:
        """End every job and daemon, and remove the folder; nothing is left running."""
        leftover = []
        with contextlib.suppress(Exception):
            leftover = [pid for node in NODES for pid in self._steps(node)]
            self.call("scancel", "--user=root", check=False, timeout_s=10)
            self._wait_for(
                "jobs to end",
                lambda: not self.call("squeue", "--noheader", check=False).strip(),
                timeout_s=15,
            )
        # The controller before the accounting daemon, that before its database.
        for name in (*NODES, "slurmctld", "slurmdbd", "database", "munged"):
            if daemon := self.daemons.pop(name, None):
                daemon.terminate()
                try:
                    daemon.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
        for pid in leftover:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        if CONFIGURATION.is_symlink() and CONFIGURATION.readlink() == self.root / "etc/slurm.conf":
            CONFIGURATION.unlink()
        shutil.rmtree(self.root, ignore_errors=True)


SLURM_CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job may start again when the credential of its first start has expired: 120 s where this is not set.
AuthInfo=socket={root}/run/munge.socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/%n.pid
SlurmctldDebug=info
SlurmdDebug=info
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=3,sched_interval=3,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MinJobAge=3600
KillWait=3
SlurmdTimeout=60
# More CPUs and memory than the machine has.
SlurmdParameters=config_overrides
# Memory limits without cgroups: look once a second, kill what uses more than it asked for.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,NoShared
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={root}/run/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=cpu Nodes={names} Default=YES MaxTime=1-00:00:00 DefMemPerCPU=500 PriorityTier=10
PartitionName=gpu Nodes={names} MaxTime=1-00:00:00 DefMemPerCPU=500 PriorityTier=10
PartitionName=urgent Nodes={names} MaxTime=1-00:00:00 DefMemPerCPU=500 PriorityTier=20
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
DebugLevel=info
PidFile={root}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=accounting
"""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _descendants(pid: int) -> list[int]:
    """Return all children of a process, theirs, and so on."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found
