"""docs/images/page.png: the page of a running server, in headless Chromium.

silva serve silva-vit-tiny --forest demo-forest &
python docs/page_picture.py http://127.0.0.1:8000 docs/images/page.png
"""

from __future__ import annotations

import shutil
import sys

from playwright.sync_api import sync_playwright

SIZE = {"width": 1080, "height": 760}
FEW = "#tree [data-key=cluster-0]"


def main(arguments: list[str]) -> None:
    """Open the first cluster and a client of it, and take the picture."""
    program = shutil.which("chromium")
    if len(arguments) != 2 or program is None:
        sys.exit("usage: page_picture.py URL OUT.png; needs chromium on the path")
    url, out = arguments
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
        page.goto(url)
        page.click(FEW)
        page.locator(f"{FEW} [role=treeitem]").first.click()
        page.wait_for_selector(".digests")
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=out, full_page=True)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
