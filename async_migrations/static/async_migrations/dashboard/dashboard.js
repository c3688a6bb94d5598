// Keeps what somebody does on a page while htmx renews its live part, and says when the service is away.
"use strict";

const live = document.querySelector("[data-live]");
const away = document.getElementById("away");
const announcer = document.getElementById("announcer");
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const exact = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });
const UNITS = [["second", 60], ["minute", 60], ["hour", 24], ["day", 30], ["month", 12], ["year", Infinity]];
let pressed = false;
let kept = null;

function ago(moment) {
    let distance = (moment - Date.now()) / 1000;
    for (const [unit, size] of UNITS) {
        if (Math.abs(Math.round(distance)) < size) {
            return relative.format(Math.round(distance), unit);
        }
        distance /= size;
    }
}

function tellTimes() {
    for (const element of document.querySelectorAll("time[datetime]")) {
        const moment = new Date(element.dateTime);
        const text = ago(moment);
        // What does not change is left alone, so that a text that is being selected stays so.
        if (element.textContent !== text) {
            element.textContent = text;
            element.title = exact.format(moment);
        }
    }
}

function tellChosen() {
    const count = document.querySelectorAll("td.pick :checked").length;
    for (const element of document.querySelectorAll("[data-chosen]")) {
        element.textContent = count ? `${count} chosen` : "";
    }
}

function offerCopying() {
    for (const button of document.querySelectorAll("[data-copy]")) {
        // Without TLS a browser gives no page its clipboard.
        button.hidden = !navigator.clipboard;
    }
}

function placeOfFocus() {
    const element = document.activeElement;
    if (!live.contains(element)) {
        return null;
    }
    if (element.id) {
        return `#${CSS.escape(element.id)}`;
    }
    return element.hasAttribute("href") ? `[href="${CSS.escape(element.getAttribute("href"))}"]` : null;
}

function isSelecting() {
    const selection = getSelection();
    return !selection.isCollapsed && live.contains(selection.anchorNode);
}

function show(element, wanted) {
    if (element.hidden === wanted) {
        element.hidden = !wanted;
    }
}

if (live) {
    const said = () => live.querySelector("[data-announce]")?.dataset.announce ?? "";

    document.body.addEventListener("htmx:configRequest", (event) => {
        event.detail.headers["If-None-Match"] = live.dataset.etag;
    });
    document.body.addEventListener("htmx:beforeRequest", (event) => {
        if (document.hidden) {
            event.preventDefault();
        }
    });
    document.body.addEventListener("htmx:beforeSwap", (event) => {
        if (!event.detail.shouldSwap) {
            return;
        }
        if (pressed || isSelecting()) {
            event.detail.shouldSwap = false; // The next one brings it.
            return;
        }
        live.dataset.etag = event.detail.xhr.getResponseHeader("ETag");
        kept = {
            focus: placeOfFocus(),
            chosen: new Set(Array.from(live.querySelectorAll(":checked"), (box) => box.id)),
            open: new Set(Array.from(live.querySelectorAll("details[open]"), (part) => part.id)),
            said: said(),
        };
    });
    document.body.addEventListener("htmx:afterSwap", () => {
        for (const box of live.querySelectorAll("input[type=checkbox]")) {
            box.checked = kept.chosen.has(box.id);
        }
        for (const part of live.querySelectorAll("details")) {
            part.open = kept.open.has(part.id);
        }
        if (kept.focus) {
            live.querySelector(kept.focus)?.focus({ preventScroll: true });
        }
        if (said() !== kept.said) {
            announcer.textContent = said();
        }
        refresh();
    });
    document.body.addEventListener("htmx:afterRequest", (event) => {
        const status = event.detail.xhr.status;
        show(away, status === 0 || status >= 500);
        if (status >= 400 && status < 500) {
            location.reload(); // It is gone, or not for this user any more: the whole page says so.
        }
    });
    document.addEventListener("visibilitychange", () => {
        if (!document.hidden) {
            htmx.trigger(live, "look");
        }
    });
    for (const [name, value] of [["pointerdown", true], ["pointerup", false], ["pointercancel", false]]) {
        document.addEventListener(name, () => { pressed = value; });
    }
}

document.addEventListener("change", (event) => {
    if (event.target.matches("[data-all]")) {
        for (const box of document.querySelectorAll("td.pick input")) {
            box.checked = event.target.checked;
        }
    }
    tellChosen();
});

document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) {
        await navigator.clipboard.writeText(button.dataset.copy);
        announcer.textContent = "Copied.";
        button.textContent = "copied";
        setTimeout(() => { button.textContent = "copy"; }, 1500);
    }
});

function refresh() {
    tellTimes();
    tellChosen();
    offerCopying();
}

refresh();
setInterval(tellTimes, 1000);
