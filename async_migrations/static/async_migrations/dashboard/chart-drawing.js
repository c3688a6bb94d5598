// The drawing on the detail page: a curve over time, and what was going on behind it.
"use strict";

// element: where to draw. moved: called when another point is under the cursor, or none.
function drawingIn(element, moved) {
    const colour = (name) => getComputedStyle(element).getPropertyValue(`--chart-${name}`).trim();
    const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
    const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
    const CLOCK = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
    const minutes = new Intl.DateTimeFormat("en-GB", CLOCK);
    const seconds = new Intl.DateTimeFormat("en-GB", { ...CLOCK, second: "2-digit" });
    const days = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
    const NARROW = 560; // pixels
    const GAP = "nobody at work";
    let data = null;
    let plot = null;

    function clock(at, format = seconds) {
        return format.format(new Date(at * 1000));
    }

    function hatch(context, ratio) {
        const size = Math.round(8 * ratio);
        const tile = document.createElement("canvas");
        tile.width = size;
        tile.height = size;
        const pen = tile.getContext("2d");
        pen.fillStyle = colour("throttled");
        pen.fillRect(0, 0, size, size);
        pen.strokeStyle = colour("hatch");
        pen.lineWidth = 1.5 * ratio;
        for (const shift of [-size, 0, size]) { // So that its edges meet those of the next tile.
            pen.beginPath();
            pen.moveTo(shift, size);
            pen.lineTo(shift + size, 0);
            pen.stroke();
        }
        return context.createPattern(tile, "repeat");
    }

    function places(chart) {
        return data.bands.map((band, number) => {
            const left = chart.valToPos(band.from, "x", true);
            return { band, number, left, width: Math.max(chart.valToPos(band.to, "x", true) - left, uPlot.pxRatio) };
        });
    }

    function drawBands(chart) {
        const { ctx: pen, bbox } = chart;
        const ratio = uPlot.pxRatio;
        const throttled = data.shows === "rate";
        const pattern = throttled ? hatch(pen, ratio) : null;
        pen.save();
        for (const { number, left, width } of places(chart)) {
            pen.fillStyle = pattern ?? colour("band");
            if (throttled || number % 2 === 0) {
                pen.fillRect(left, bbox.top, width, bbox.height);
            }
        }
        pen.restore();
    }

    function line(chart, at, kind, dash = []) {
        const { ctx: pen, bbox } = chart;
        const ratio = uPlot.pxRatio;
        const left = Math.round(chart.valToPos(at, "x", true)) + 0.5;
        pen.strokeStyle = colour(kind);
        pen.lineWidth = ratio;
        pen.setLineDash(dash.map((length) => length * ratio));
        pen.beginPath();
        pen.moveTo(left, bbox.top);
        pen.lineTo(left, bbox.top + bbox.height);
        pen.stroke();
    }

    function drawLabels(chart) {
        const { ctx: pen, bbox } = chart;
        const ratio = uPlot.pxRatio;
        const throttled = data.shows === "rate";
        pen.save();
        pen.font = font(ratio);
        pen.textAlign = "left";
        pen.textBaseline = "top";
        pen.fillStyle = colour(throttled ? "throttled-text" : "text");
        let free = -Infinity;
        for (const { band, number, left, width } of places(chart)) {
            const texts = throttled ? [band.label, "throttled"] : [`${number + 1} ${band.label}`, `${number + 1}`];
            const text = texts.find((each) => pen.measureText(each).width + 10 * ratio < width);
            if (text && left >= free) {
                pen.fillText(text, left + 5 * ratio, bbox.top + 5 * ratio);
                free = left + width;
            }
        }
        pen.fillStyle = colour("text");
        for (const gap of data.gaps) {
            const [left, right] = [gap.from, gap.to].map((at) => chart.valToPos(at, "x", true));
            if (pen.measureText(GAP).width + 10 * ratio < right - left) {
                pen.textAlign = "center";
                pen.fillText(GAP, (left + right) / 2, bbox.top + bbox.height / 2);
                pen.textAlign = "left";
            }
        }
        pen.textBaseline = "bottom";
        for (const { at, attempt } of data.attempts) {
            line(chart, at, "text", [2, 3]);
            const left = chart.valToPos(at, "x", true) + 4 * ratio;
            pen.fillText(`attempt ${attempt}`, left, bbox.top + bbox.height - 4 * ratio);
        }
        pen.restore();
    }

    function font(ratio) {
        return `${12 * ratio}px ${getComputedStyle(element).fontFamily}`;
    }

    function times(chart, splits, axis, space, step) {
        const format = step < 60 ? seconds : minutes;
        let [day, before] = ["", ""];
        return splits.map((at) => {
            const today = clock(at, days);
            const told = step >= 86400 ? today : clock(at, format);
            if (told === before) return ""; // Of what took a second or two there are several in one.
            before = told;
            const extra = step < 86400 && today !== day && (day || today !== clock(Date.now() / 1000, days));
            day = today;
            return extra ? `${told}\n${today}` : told;
        });
    }

    function axis(scale, side, format, kind, unit, label) {
        return {
            scale,
            side,
            label: element.clientWidth > NARROW ? label : null,
            labelFont: font(1),
            labelSize: 20,
            stroke: () => colour(kind),
            font: font(1),
            grid: side === 3 ? { stroke: () => colour("grid"), width: 1 } : { show: false },
            ticks: { show: false },
            size: (chart, values) => 14 + 7 * Math.max(3, ...(values ?? []).map((value) => value.length)),
            gap: 6,
            space: 36,
            values: (chart, splits) => splits.map((value) => format.format(value) + unit),
        };
    }

    function series(scale, kind, options) {
        return { scale, stroke: () => colour(kind), spanGaps: false, points: { show: false }, ...options };
    }

    function options() {
        const rate = data.shows === "rate";
        // Above the highest value there is room for the labels of the bands.
        const upTo = (room) => (chart, low, high) => [0, (high || 1) * room];
        const shown = [{}, series("value", "line", { width: 2, fill: () => colour("area") })];
        const axes = [
            {
                stroke: () => colour("text"),
                font: font(1),
                grid: { show: false },
                ticks: { stroke: () => colour("edge"), width: 1, size: 4 },
                gap: 4,
                size: (chart, values) => ((values ?? []).some((value) => value.includes("\n")) ? 42 : 26),
                space: 84,
                values: times,
            },
            rate
                ? axis("value", 3, short, "text", "", "rows a second")
                : { ...axis("value", 3, whole, "text", " %", "done"), splits: () => [0, 25, 50, 75, 100] },
        ];
        if (rate) {
            const paths = uPlot.paths.stepped({ align: 1 });
            shown.push(series("batch", "other", { width: 1.5, dash: [5, 4], paths }));
            axes.push(axis("batch", 1, short, "other", "", "rows in a batch"));
        }
        return {
            ...size(),
            legend: { show: false },
            padding: [8, rate ? 0 : 16, 0, 0],
            cursor: { drag: { x: false, y: false }, points: { size: 7 } },
            scales: { value: { range: rate ? upTo(1.2) : [0, 112] }, batch: { range: upTo(1.6) } },
            series: shown,
            axes,
            hooks: { drawClear: [drawBands], draw: [drawLabels], setCursor: [() => moved()] },
        };
    }

    function size() {
        return { width: element.clientWidth, height: element.clientHeight };
    }

    function draw(wanted) {
        data = wanted;
        const columns = data.shows === "rate" ? [data.at, data.value, data.batch_size] : [data.at, data.value];
        if (plot) {
            plot.setData(columns);
        } else {
            plot = new uPlot(options(), columns, element);
        }
    }

    function clear() {
        plot?.destroy();
        plot = null;
    }

    new ResizeObserver(() => {
        const { width, height } = size();
        if (plot && width && (width !== plot.width || height !== plot.height)) {
            plot.setSize({ width, height });
        }
    }).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
        if (plot) {
            clear();
            draw(data);
        }
    });
    // What is above it may have grown, and the cursor is where it was.
    document.body.addEventListener("htmx:afterSettle", () => plot?.syncRect());
    return { draw, clear, clock, under: () => plot?.cursor.idx ?? null };
}
