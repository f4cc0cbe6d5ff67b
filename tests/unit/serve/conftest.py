import psycopg
import pytest
from serve_world import ReadSide


@pytest.fixture(scope="session")
def shared_postgres(postgres):
    """One database for all: making two hundred takes a while, and emptying one does not."""
    return postgres()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """The URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'read-side.sqlite3'}"
    url = request.getfixturevalue("shared_postgres")
    with psycopg.connect(url) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return url


@pytest.fixture
def make_read_side():
    made = []

    def make(url, **options):
        made.append(ReadSide(url, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def read_side(database, make_read_side):
    return make_read_side(database)
