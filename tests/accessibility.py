"""What axe-core says of a page."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page


def serious(page: Page) -> list[str]:
    """The serious and critical findings on `page` as it stands, each with its first place."""
    findings = Axe().run(page).response["violations"]
    return [
        f"{finding['id']}: {finding['help']} ({finding['nodes'][0]['html'][:200]})"
        for finding in findings
        if finding["impact"] in ("serious", "critical")
    ]
