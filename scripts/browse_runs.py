"""Open the MLflow UI of the configured store on 127.0.0.1: what `make mlflow` does."""

import argparse
import os
import socket
import sys
from pathlib import Path

from reproduction.config import load_configuration, read_yaml
from reproduction.tracking import Store, pages


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="where to serve; default: 5000")
    arguments = parser.parse_args()
    configuration = load_configuration(read_yaml(Path("config.yaml")))
    folder = Path(configuration.paths.results) / "mlflow"
    store = Store.at(configuration.tracking.uri, folder)
    if store.database_file is None:
        print(f"the runs are on the tracking server: {store.tracking_uri}")
        return 0
    if not store.database_file.exists():
        print(f"{store.database_file}: no runs yet; `make reproduce` makes them", file=sys.stderr)
        return 1
    if not free(arguments.port):
        print(
            f"port {arguments.port} is in use, perhaps by an earlier `make mlflow`; choose another: "
            f"python scripts/browse_runs.py --port {arguments.port + 1}",
            file=sys.stderr,
        )
        return 1
    address = f"http://127.0.0.1:{arguments.port}"
    for experiment, page in pages(store, address).items():
        print(f"{experiment}: {page}")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(arguments.port),
        "--workers",
        "1",
    ]
    command += [
        "--backend-store-uri",
        store.tracking_uri,
        "--artifacts-destination",
        str(store.artifact_root),
    ]
    print("The server needs a few seconds; Ctrl-C ends it.", flush=True)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    return os.execv(command[0], command)


def free(port: int) -> bool:
    """Whether a server can listen on ``port`` of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was closed just now is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
