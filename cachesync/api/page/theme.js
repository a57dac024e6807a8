// Light or dark before anything is shown. Loaded ahead of the page, so that it does not flash.
"use strict";
{
  const kept = localStorage.getItem("cachesync.theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
}
