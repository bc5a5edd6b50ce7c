"""Regenerate config.yaml (keeping its values), workflow/schemas/, docs/configuration.md and the hours of
docs/paper_scale.md from the typed model and the tables."""

from reproduction import budget, configuration_page
from reproduction.claims import Claims
from reproduction.config import REPOSITORY, read_yaml, render_configuration
from reproduction.configuration_page import schemas
from reproduction.files import write_json, write_text


def main() -> None:
    path = REPOSITORY / "config.yaml"
    write_text(path, render_configuration(read_yaml(path) if path.exists() else None))
    for name, schema in {**schemas(), "claims.schema.json": Claims.model_json_schema()}.items():
        write_json(REPOSITORY / "workflow" / "schemas" / name, schema)
    write_text(REPOSITORY / "workflow" / "schemas" / "config.default.yaml", render_configuration())
    write_text(REPOSITORY / "docs" / "configuration.md", configuration_page.render())
    page = REPOSITORY / "docs" / "paper_scale.md"
    write_text(page, budget.with_tables(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
