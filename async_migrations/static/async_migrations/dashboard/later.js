// Says in which zone a time is meant that somebody types, and sends along how far that is from UTC then.
"use strict";

const typed = document.querySelector("[name=run_at]");
const zone = document.querySelector("[name=zone]");

function tellZone() {
    // Of the time that was typed: summer time may have come or gone until then.
    zone.value = typed.value ? new Date(typed.value).getTimezoneOffset() : 0;
}

document.querySelector("[data-zone]").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
typed.addEventListener("input", tellZone);
typed.form.addEventListener("submit", tellZone);
tellZone();
