"""The published tables and figures as data, and the command that runs them again.

    python -m resjax.papers list
    python -m resjax.papers v2-table1 --data=digits --seeds=5 --workdir=runs/v2-table1

v1 is arXiv 1512.03385, v2 is arXiv 1603.05027. Every row can be run; the list says which ever was.
"""

from resjax.papers import claims, degradation, highway, v1, v2
from resjax.papers.table import Published, Row, Table

TABLES: dict[str, Table] = {
    table.name: table for table in (*v1.TABLES, *v2.TABLES, highway.TABLE, *degradation.TABLES, *claims.TABLES)
}

__all__ = ["TABLES", "Published", "Row", "Table"]
