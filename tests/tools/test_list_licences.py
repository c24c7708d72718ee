"""What is installed with medkd is listed with its licences, as a table and as CycloneDX."""

from list_licences import close_over, find_licence, make_sbom


def test_every_package_is_listed_once_with_a_licence():
    packages = close_over("medkd", ["train"])
    assert {"medkd", "pydantic", "torch", "numpy"} <= packages.keys()
    assert [name for name, package in packages.items() if not find_licence(package)] == []
    assert "torch" not in close_over("medkd", [])


def test_the_bill_of_materials_names_each_package_by_its_address():
    packages = close_over("medkd", [])
    made = make_sbom(packages)
    assert made["bomFormat"] == "CycloneDX" and made["metadata"]["component"]["name"] == "medkd"
    addresses = [part["purl"] for part in made["components"]]
    assert len(addresses) == len({*addresses}) == len(packages) - 1
    assert f"pkg:pypi/pydantic@{packages['pydantic'].version}" in addresses
