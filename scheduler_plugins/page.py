"""The page ``/grid`` of the Dask dashboard: who is here and why so, what runs and waits, who holds which blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bokeh.core.properties import without_property_validation
from bokeh.layouts import column, row
from bokeh.models import (
    AllIndices,
    ColumnDataSource,
    DataTable,
    Div,
    FactorRange,
    HTMLTemplateFormatter,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.models.widgets import TableColumn
from bokeh.plotting import figure
from distributed.dashboard.components import DashboardComponent, add_periodic_callback
from distributed.dashboard.components.scheduler import BOKEH_THEME, env
from distributed.dashboard.scheduler import applications, template_variables

from . import page_html as html
from .page_strip import strips
from .state import grid_state

REFRESH = 1000
"""Milliseconds between two updates of an open page."""
ROUTE = "/grid"
_RUNNING, _WAITING = "#2f6db3", "#e0a458"
_ROW, _TALLEST = 28, 560
"""Height of a row of the table and of the whole, in pixels; what is longer scrolls."""


class GridPage(DashboardComponent):  # type: ignore[misc]
    """Tiles, two figures, the deployed models' blocks and a table, all fed by one `grid_state`."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        wide = {"sizing_mode": "stretch_width", "stylesheets": [":host .bk-clearfix { width: 100% }"]}
        self.source = ColumnDataSource({name: [] for name in html.COLUMNS})
        self.tiles = Div(text="", **wide)
        self.legend = Div(text=html.legend(), **wide)
        self.note = Div(text="", **wide)
        self.strips = Div(text="", **wide)
        self.work = _Bars("Work by type", "type", {"running": _RUNNING, "waiting": _WAITING})
        self.regions = _Bars("Workers by region", "region", html.STATES)
        self.table = _table(self.source)
        self.root = column(
            self.tiles,
            row(self.work.plot, self.regions.plot, sizing_mode="stretch_width"),
            self.note,
            self.strips,
            self.legend,
            self.table,
            sizing_mode="stretch_width",
            styles={"padding": "8px 24px", "box-sizing": "border-box"},
        )

    @without_property_validation  # type: ignore[untyped-decorator]
    def update(self) -> None:
        """Show the grid as it is now. Properties that stay the same are not sent."""
        grid = getattr(self.scheduler, "grid", None)
        if grid is None:
            self.tiles.text = html.note("This scheduler runs without the grid's rules.")
            return
        self.show(grid_state(grid))

    def show(self, state: Mapping[str, Any]) -> None:
        """Show a document of `grid_state`."""
        workers = state["workers"]
        _set(self.tiles, "text", html.tiles(state))
        _set(self.note, "text", html.notes(state))
        _set(self.note, "visible", bool(self.note.text))
        _set(self.strips, "text", strips(state))
        _set(self.strips, "visible", bool(self.strips.text))
        self._fill(html.table(workers))
        _set(self.table, "height", min(_TALLEST, _ROW * (len(workers) + 1) + 8))
        for part in (self.table, self.legend):
            _set(part, "visible", bool(workers))
        types = sorted({*state["running_by_type"], *state["waiting_by_type"]}, reverse=True)
        regions = dict(sorted(state["regions"].items(), reverse=True))
        rows = max(2, len(types), len(regions))
        work = {name: [state[f"{name}_by_type"].get(type_, 0) for type_ in types] for name in ("running", "waiting")}
        self.work.show(types, work, [html.amounts(*pair) for pair in zip(*work.values(), strict=True)], rows)
        workers_in = {name: [region[name] for region in regions.values()] for name in html.STATES}
        amounts = [html.amounts(region["running"], region["waiting"]) for region in regions.values()]
        self.regions.show(list(regions), workers_in, amounts, rows)

    def _fill(self, cells: Mapping[str, list[str]]) -> None:
        """The table's cells. Bokeh 3.9 draws it anew only when its view changes (bokeh#15328): a filter that takes all
        in place of one that takes all.
        """
        if self.source.data != cells:
            self.source.data = cells
            self.table.view.filter = AllIndices()


class _Bars:
    """A figure of stacked horizontal bars with a few words behind each."""

    def __init__(self, title: str, axis: str, colours: Mapping[str, str]) -> None:
        names = list(colours)
        self.axis = axis
        self.source = ColumnDataSource({name: [] for name in (axis, *names, "total", "words")})
        tips = [(axis, f"@{axis}"), *((name, f"@{name}") for name in names)]
        self.plot = figure(
            title=title,
            x_range=Range1d(0, 1),
            y_range=FactorRange(factors=[]),
            height=150,
            sizing_mode="stretch_width",
            toolbar_location=None,
            tools="hover",
            tooltips=tips,
        )
        self.plot.hbar_stack(
            names, y=axis, height=0.62, color=[*colours.values()], legend_label=names, source=self.source, line_width=0
        )
        self.plot.text(
            x="total", y=axis, text="words", source=self.source, x_offset=6, text_font_size="11px",
            text_baseline="middle", text_color="#4b5563",
        )  # fmt: skip
        self._dress()

    def _dress(self) -> None:
        plot, legend = self.plot, self.plot.legend[0]
        plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
        plot.xaxis.ticker.min_interval = 1
        plot.xaxis.ticker.num_minor_ticks = 0
        plot.ygrid.grid_line_color = None
        plot.outline_line_color = None
        legend.orientation = "horizontal"
        legend.border_line_color = None
        legend.background_fill_alpha = 0.0
        legend.label_text_font_size = "11px"
        legend.padding = 0
        plot.add_layout(legend, "above")

    def show(self, names: list[str], values: Mapping[str, list[int]], words: list[str], rows: int) -> None:
        """Show these stacks; `rows` of them fill the figure's height."""
        totals = [sum(stack) for stack in zip(*values.values(), strict=True)]
        _set(self.plot, "visible", bool(names))
        _set(self.plot.y_range, "factors", names)
        _set(self.plot.x_range, "end", 1.45 * max([1, *totals]))  # room for the words
        _set(self.plot, "height", 100 + 26 * rows)
        _set(self.source, "data", {self.axis: names, **values, "total": totals, "words": words})


def _set(model: Any, name: str, value: Any) -> None:
    if getattr(model, name) != value:
        setattr(model, name, value)


def _table(source: ColumnDataSource) -> DataTable:
    as_html = HTMLTemplateFormatter(template="<%= value %>")
    columns = [
        TableColumn(field=name, title=title, width=width, formatter=as_html, sortable=name not in html.UNSORTABLE)
        for name, (title, width) in html.COLUMNS.items()
    ]
    return DataTable(
        source=source,
        columns=columns,
        index_position=None,
        row_height=_ROW,
        height=_TALLEST,
        sizing_mode="stretch_width",
        fit_columns=True,
        selectable=False,
        reorderable=False,
    )


def grid_doc(scheduler: Any, extra: Mapping[str, Any], doc: Any) -> None:
    """Build the page for one visitor."""
    page = GridPage(scheduler)
    page.update()
    add_periodic_callback(doc, page, REFRESH)
    doc.title = "Dask: Grid"
    doc.add_root(page.root)
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)
    doc.theme = BOKEH_THEME


def show_page(scheduler: Any) -> None:
    """Put the page into the dashboard's navigation bar, if the dashboard was started after this module was imported."""
    pages = template_variables(scheduler)["pages"]
    if ROUTE.strip("/") not in pages:
        pages.insert(0, ROUTE.strip("/"))


applications.setdefault(ROUTE, grid_doc)  # before a scheduler starts its dashboard, which copies this table
