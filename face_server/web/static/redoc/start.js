"use strict";
Redoc.init(
  "/openapi.json",
  { disableSearch: false, expandResponses: "200,201", nativeScrollbars: true, theme: { typography: { fontFamily: "system-ui, sans-serif", headings: { fontFamily: "system-ui, sans-serif" } } } },
  document.getElementById("redoc"),
);
