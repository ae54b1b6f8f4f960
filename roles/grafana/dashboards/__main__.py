"""Write the dashboards' JSON: python -m roles.grafana.dashboards."""

from roles.grafana.dashboards import FILES, generate

FILES.mkdir(parents=True, exist_ok=True)
for name, text in generate().items():
    (FILES / name).write_text(text)
    print(FILES / name)
