// Draws how a migration got on, and asks for what is new whenever the page around it has something new.
"use strict";
{
    const section = document.getElementById("chart");
    const part = (name) => document.getElementById(`chart-${name}`);
    const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
    const tenth = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
    const TIMEOUT = 8000; // milliseconds for an answer; otherwise one that never comes would end all looks
    const POINTS = 20; // in the table
    const LISTED = 12; // bands below the chart
    const COLUMNS = {
        rate: [["Rows a second", "value", whole], ["Rows in a batch", "batch_size", whole]],
        percent: [["Done", "value", tenth, " %"]],
    };
    let tag = "";
    let asking = false;
    let missed = true; // what the page had news of
    let data = null;
    let drawing = null;

    // --- words ---

    function duration(length) {
        const rounded = Math.round(length);
        if (rounded < 60) {
            return `${rounded} s`;
        }
        return rounded < 3600
            ? `${Math.floor(rounded / 60)} min ${rounded % 60} s`
            : `${Math.floor(rounded / 3600)} h ${Math.floor((rounded % 3600) / 60)} min`;
    }

    function made(name, text = "", kind = "") {
        const element = document.createElement(name);
        element.textContent = text;
        element.className = kind;
        return element;
    }

    function behind(at) {
        return data.bands.find((band) => band.from <= at && at < band.to)
            ?? data.bands.find((band) => band.to === at && at === data.at.at(-1));
    }

    // --- the values under the cursor, or the last ones ---

    function said(sign, value, what) {
        const element = document.createElement("span");
        if (sign) {
            element.append(made("i", "", `swatch ${sign}`));
        }
        element.append(made("b", value), ` ${what}`);
        return element;
    }

    function read() {
        const under = drawing.under();
        const number = under ?? data.value.findLastIndex((value) => value !== null);
        const at = data.at[number];
        const value = data.value[number];
        const words = [];
        if (value === null) {
            words.push(made("span", "nothing was counted then"));
        } else if (data.shows === "rate") {
            words.push(said("line", whole.format(value), "rows a second"));
            const size = under === null ? data.batch_size.findLast((each) => each !== null) : data.batch_size[number];
            words.push(said("other", size ? whole.format(size) : "–", "rows in a batch"));
        } else {
            words.push(said("line", `${tenth.format(value)} %`, "done"));
        }
        if (data.total[number]) {
            const done = whole.format(data.done[number]);
            words.push(made("span", `${done} of ${whole.format(data.total[number])} ${data.unit[number]}`));
        }
        const band = behind(at);
        if (band && under !== null) {
            words.push(made("span", band.label));
        }
        words.push(made("span", `${drawing.clock(at)}, ${duration(at - data.began)} after it began`, "when"));
        part("reading").replaceChildren(...words);
    }

    // --- what is said beside the drawing ---

    function list() {
        const bands = data.bands.slice(-LISTED);
        const before = data.bands.length - bands.length;
        const items = bands.map((band, number) => {
            const item = document.createElement("li");
            if (data.shows === "rate") {
                item.append(made("i", "", "swatch throttled"), `${band.label}, from ${drawing.clock(band.from)} for `);
            } else {
                item.append(made("b", `${before + number + 1} `), `${band.label}, `);
            }
            item.append(duration(band.to - band.from));
            return item;
        });
        if (before) {
            items.unshift(made("li", `${before} earlier ones`));
        }
        part("bands").replaceChildren(...items);
    }

    function tabulate() {
        const columns = COLUMNS[data.shows];
        const state = data.shows === "rate" ? "Throttled" : "Phase";
        const table = document.createElement("table");
        const head = table.createTHead().insertRow();
        for (const [name, kind] of [["Time"], ...columns.map(([title]) => [title, "number"]), [state]]) {
            const cell = made("th", name, kind);
            cell.scope = "col";
            head.append(cell);
        }
        const body = table.createTBody();
        for (let number = data.at.length - 1; number >= 0 && body.rows.length < POINTS; number -= 1) {
            if (data.value[number] === null) {
                continue;
            }
            const line = body.insertRow();
            line.append(made("td", drawing.clock(data.at[number])));
            for (const [, name, format, unit = ""] of columns) {
                const value = data[name][number];
                line.append(made("td", value === null ? "–" : format.format(value) + unit, "number"));
            }
            line.append(made("td", behind(data.at[number])?.label ?? ""));
        }
        part("numbers").replaceChildren(table);
    }

    function show(wanted) {
        section.hidden = !wanted.at.length && !wanted.why;
        part("why").hidden = !wanted.why;
        part("why").textContent = wanted.why ?? "";
        part("drawn").hidden = !wanted.at.length;
        if (!wanted.at.length) {
            drawing.clear();
            return;
        }
        data = wanted;
        drawing.draw(data);
        part("plot").setAttribute("aria-label", data.said);
        read();
        list();
        tabulate();
    }

    async function look() {
        if (asking) {
            return;
        }
        asking = missed = true;
        const headers = { "HX-Request": "true", "If-None-Match": tag };
        // When the service is away the page says so, and when it is back the next look brings what was missed.
        const options = { headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) };
        const answer = await fetch(section.dataset.chart, options).catch(() => null);
        const news = answer?.status === 200 ? await answer.json().catch(() => null) : null;
        asking = false;
        missed = !news && answer?.status !== 304;
        if (news) {
            tag = answer.headers.get("ETag");
            show(news);
        }
    }

    if (section) {
        drawing = drawingIn(part("plot"), read);
        document.body.addEventListener("htmx:afterRequest", (event) => {
            const { status } = event.detail.xhr;
            if (status === 200 || (status === 304 && missed)) {
                look();
            }
        });
        look();
    }
}
