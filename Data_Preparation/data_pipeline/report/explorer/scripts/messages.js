// Shows what the server has to say about an answer, which the page would not show.
(() => {
  "use strict";
  const original = window.fetch;
  window.fetch = async (...request) => {
    const response = await original(...request);
    const message = response.headers.get("X-Elm-Message");
    if (message) window.alert(message);
    return response;
  };
})();
