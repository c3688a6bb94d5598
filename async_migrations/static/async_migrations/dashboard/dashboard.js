// Keeps what somebody does on a page while htmx renews its live part, and says when the service is away.
"use strict";

const live = document.querySelector("[data-live]");
const away = document.getElementById("away");
const withheld = document.getElementById("withheld");
const announcer = document.getElementById("announcer");
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const exact = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });
const UNITS = [["second", 60], ["minute", 60], ["hour", 24], ["day", 30], ["month", 12], ["year", Infinity]];
const PATIENCE = 10_000; // milliseconds that news is withheld before the page says so
const GONE = [403, 404, 410];
const exactly = document.getElementById("times");
let inFull = localStorage.getItem("times") === "exact";
let pressed = false;
let news = null; // since when there is some that is withheld
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
        const [said, full] = [ago(moment), exact.format(moment)];
        const text = "exact" in element.dataset ? `${full} (${said})` : inFull ? full : said;
        // What does not change is left alone, so that a text that is being selected stays so.
        if (element.textContent !== text) {
            element.textContent = text;
            element.title = inFull ? said : full;
        }
    }
    exactly?.setAttribute("aria-pressed", inFull);
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

// What has no id is found again by where it leads, or what it is, and as which of those in what has one.
function placeOf(element) {
    const around = element.closest("[id]");
    const scope = around ? `#${CSS.escape(around.id)}` : "";
    if (around === element) {
        return { selector: scope, index: 0 };
    }
    const href = element.getAttribute("href");
    const selector = `${scope} ${href === null ? element.localName : `[href="${CSS.escape(href)}"]`}`;
    return { selector, index: Array.from(live.querySelectorAll(selector)).indexOf(element) };
}

function inPlace({ selector, index }) {
    const found = live.querySelectorAll(selector);
    return found[index] ?? found[0];
}

function scrolled() {
    // What scrolls by itself can have the focus, or the keyboard would not reach all of it.
    const parts = Array.from(live.querySelectorAll("[tabindex]"));
    return parts.filter((part) => part.scrollTop || part.scrollLeft)
        .map((part) => [placeOf(part), part.scrollLeft, part.scrollTop]);
}

function isSelecting() {
    const selection = getSelection();
    return !selection.isCollapsed && live.contains(selection.anchorNode);
}

function show(element, wanted) {
    if (element?.hidden === wanted) {
        element.hidden = !wanted;
    }
}

// Older events that were asked for stay below the live ones, which then have to reach down to them.
function since() {
    return live.querySelector("[name=since]")?.value;
}

if (live) {
    const isPoll = ({ detail }) => (detail.requestConfig ?? detail).elt === live;
    const said = () => live.querySelector("[data-announce]")?.dataset.announce ?? "";

    document.body.addEventListener("htmx:configRequest", (event) => {
        if (isPoll(event)) {
            event.detail.headers["If-None-Match"] = live.dataset.etag;
            if (since()) {
                event.detail.parameters.since = since();
            }
        }
    });
    document.body.addEventListener("htmx:beforeRequest", (event) => {
        if (document.hidden) {
            event.preventDefault();
        }
    });
    document.body.addEventListener("htmx:beforeSwap", (event) => {
        if (!event.detail.shouldSwap || !isPoll(event)) {
            return;
        }
        if (since() && !new URL(event.detail.xhr.responseURL).searchParams.has("since")) {
            event.detail.shouldSwap = false; // It was asked for before there were older events below.
            return;
        }
        if (pressed || isSelecting()) {
            event.detail.shouldSwap = false; // The next one brings it.
            news ??= Date.now();
            return;
        }
        news = null;
        live.dataset.etag = event.detail.xhr.getResponseHeader("ETag");
        kept = {
            focus: live.contains(document.activeElement) ? placeOf(document.activeElement) : null,
            scrolled: scrolled(),
            chosen: new Set(Array.from(live.querySelectorAll(":checked"), (box) => box.id)),
            open: new Set(Array.from(live.querySelectorAll("details[open]"), (part) => part.id)),
            said: said(),
        };
    });
    document.body.addEventListener("htmx:afterSwap", (event) => {
        if (!isPoll(event)) {
            refresh();
            return;
        }
        for (const box of live.querySelectorAll("input[type=checkbox]")) {
            box.checked = kept.chosen.has(box.id);
        }
        for (const part of live.querySelectorAll("details")) {
            part.open = kept.open.has(part.id);
        }
        if (kept.focus) {
            inPlace(kept.focus)?.focus({ preventScroll: true });
        }
        for (const [place, left, top] of kept.scrolled) {
            inPlace(place)?.scrollTo(left, top);
        }
        if (said() !== kept.said) {
            announcer.textContent = said();
        }
        refresh();
    });
    document.body.addEventListener("htmx:afterRequest", (event) => {
        const status = event.detail.xhr.status;
        if (GONE.includes(status)) {
            location.reload(); // It is gone, or not for this user any more: the whole page says so.
            return;
        }
        if (status === 304) {
            news = null;
        }
        show(away, status === 0 || status >= 400);
        show(withheld, news !== null && Date.now() - news >= PATIENCE);
    });
    document.addEventListener("visibilitychange", () => {
        if (!document.hidden) {
            htmx.trigger(live, "look");
        }
    });
    document.addEventListener("pointerdown", (event) => { pressed = event.button === 0; });
    for (const name of ["pointerup", "pointercancel", "contextmenu"]) {
        document.addEventListener(name, () => { pressed = false; });
    }
    addEventListener("blur", () => { pressed = false; });
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
        const copied = await navigator.clipboard.writeText(button.dataset.copy).then(() => true, () => false);
        announcer.textContent = copied ? "Copied." : "The browser does not allow this page to copy.";
        button.textContent = copied ? "copied" : "not allowed to copy";
        setTimeout(() => {
            button.textContent = "copy";
            announcer.textContent = ""; // so that the next one is announced as well
        }, 1500);
    }
});

exactly?.addEventListener("click", () => {
    inFull = !inFull;
    localStorage.setItem("times", inFull ? "exact" : "relative");
    tellTimes();
});

function refresh() {
    show(exactly, document.querySelector("time[datetime]") !== null);
    tellTimes();
    tellChosen();
    offerCopying();
}

refresh();
setInterval(tellTimes, 1000);
