"""Open the MLflow UI of the configured store on 127.0.0.1: what `make mlflow` does."""

import argparse
import os
import sys
from pathlib import Path

from reproduction.config import load_configuration, read_yaml
from reproduction.tracking import Store, pages


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", default="5000")
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
        arguments.port,
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


if __name__ == "__main__":
    sys.exit(main())
