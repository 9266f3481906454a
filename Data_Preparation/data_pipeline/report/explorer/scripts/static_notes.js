// Keeps the labels that the page has computed in memory: a static server has nothing to keep them in, and would answer
// with errors.
(() => {
  "use strict";
  const notes = new Map();
  const original = window.fetch;
  window.fetch = async (request, options) => {
    const url = String(request instanceof Request ? request.url : request);
    if (!url.includes("/data/cache/")) return original(request, options);
    if (options?.method === "POST") notes.set(url, options.body);
    return new Response(notes.get(url) ?? "null", { headers: { "Content-Type": "application/json" } });
  };
})();
