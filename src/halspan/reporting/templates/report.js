"use strict";
// The gallery: filters captions in memory and builds one page of cards at a time. Text from the data only ever becomes text.
(() => {
  const PAGE = 24;
  const DEBOUNCE = 150; // milliseconds
  const N_COLORS = 9;
  const UNTYPED = "no type";

  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters");
  const list = document.getElementById("cards");
  const previous = document.getElementById("previous");
  const next = document.getElementById("next");
  const defaults = Object.fromEntries(new FormData(form));
  const count = new Intl.NumberFormat("en");

  for (const caption of data.captions) {
    const text = caption.rows.map((row) => row.segments.map((piece) => piece.text).join("")).join(" ");
    caption.searchable = `${text}\n${caption.id}`.toLowerCase();
  }
  const orders = { file: data.captions, highest: descending("highest"), wrong: descending("wrong") };
  let matches = [];
  let page = 0;

  function descending(key) {
    return [...data.captions].sort((a, b) => (b[key] ?? -1) - (a[key] ?? -1));
  }

  // ---- building elements

  function build(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children);
    return element;
  }

  function typeName(type) {
    return type === null ? UNTYPED : data.types[type];
  }

  function color(type) {
    return `t${(type ?? N_COLORS - 1) % N_COLORS}`;
  }

  function chip(type, score) {
    const found = score !== undefined;
    const short = type === null ? "?" : data.abbreviations[type];
    const element = build("span", `chip ${found ? "found" : "gold"} ${color(type)}`, found ? short : `[${short}]`);
    const title = found ? `predicted: ${typeName(type)}, score ${score.toFixed(2)}` : `annotated: ${typeName(type)}`;
    element.title = title;
    element.setAttribute("role", "note");
    element.setAttribute("aria-label", title);
    return element;
  }

  function piece({ text, gold = [], found = [], ends = [] }) {
    const chips = ends.map((end) => chip(end.type, end.score));
    if (!gold.length && !found.length) return [text, ...chips];
    const kinds = [gold.length && "gold", found.length && "found", gold.length > 1 && "twice"].filter(Boolean);
    const element = build("span", `piece ${kinds.join(" ")} ${color([...gold, ...found][0])}`, text);
    if (found.length) element.style.setProperty("--fill", `var(--${color(found[0])})`);
    return [element, ...chips];
  }

  function bar(p, threshold) {
    const element = build("span", "bar", build("span", "level"), build("span", "tick"));
    element.firstChild.style.width = `${100 * p}%`;
    element.lastChild.style.left = `${100 * threshold}%`;
    element.setAttribute("aria-hidden", "true");
    return element;
  }

  const VERDICTS = { right: "✓", missed: "✗ missed", false: "✗ false alarm" };

  function sentence(row, threshold) {
    const text = build("p", "text", ...row.segments.flatMap(piece));
    text.dir = "auto";
    if (row.label === undefined) return build("li", "sentence between", build("span", "verdict", "not judged"), text);
    const score =
      row.p === undefined
        ? build("span", "score", "–", build("small", "", `unscored: ${row.unscored}`))
        : build("span", "score", row.p.toFixed(2), bar(row.p, threshold));
    const notes = (row.types ?? []).map((type) => chip(type));
    const votes = row.votes && `${row.votes[0]} correct, ${row.votes[1]} incorrect, ${row.votes[2]} unknown`;
    const label = build("span", `label ${row.label}`, row.label, " ", ...notes, " ");
    if (votes) label.title = `votes: ${votes}`;
    const verdict = build("span", "verdict", label, build("span", "outcome", VERDICTS[row.outcome] ?? ""));
    return build("li", `sentence ${row.outcome ?? ""}`, score, verdict, text);
  }

  function picture(caption) {
    const image = data.images[caption.image];
    if (image.reason) return build("div", "thumb broken", build("small", "", `No image: ${image.reason}`));
    const element = build("img", image.width <= 64 ? "tiny" : "");
    Object.assign(element, { src: image.src, width: image.width, height: image.height, alt: `Image ${caption.file}` });
    element.decoding = "async";
    return build("div", "thumb", element);
  }

  function card(caption, index) {
    const title = build("h3", "", build("bdi", "", caption.id));
    title.id = `card-${index}`;
    const about = build("p", "about", build("bdi", "", caption.generator), ` · ${caption.part} · `, build("bdi", "", caption.file));
    const rows = build("ol", "sentences", ...caption.rows.map((row) => sentence(row, data.thresholds[caption.part])));
    const article = build("article", "card", picture(caption), build("div", "body", title, about, rows));
    article.tabIndex = 0;
    article.setAttribute("aria-labelledby", title.id);
    return build("li", "", article);
  }

  // ---- filtering

  function filters() {
    return Object.fromEntries(new FormData(form));
  }

  function bound(text, otherwise) {
    const value = Number.parseFloat(text);
    return Number.isNaN(value) ? otherwise : value;
  }

  function find({ part, generator, type, outcome, low, high, search, sort }) {
    const typeIndex = data.types.indexOf(type);
    const words = search.trim().toLowerCase();
    const [from, to] = [bound(low, 0), bound(high, 1)];
    const everything = from <= 0 && to >= 1; // captions without any score are in this range only
    return orders[sort].filter(
      (caption) =>
        (!part || caption.part === part) &&
        (!generator || caption.generator === generator) &&
        (!type || caption.types.includes(typeIndex)) &&
        (!outcome || caption.outcomes.includes(outcome)) &&
        (everything || (caption.highest !== null && caption.highest >= from && caption.highest <= to)) &&
        (!words || caption.searchable.includes(words)),
    );
  }

  function show() {
    const first = page * PAGE;
    const shown = matches.slice(first, first + PAGE);
    const n_pages = Math.max(1, Math.ceil(matches.length / PAGE));
    list.replaceChildren(...shown.map((caption, index) => card(caption, first + index)));
    if (!shown.length) list.append(build("li", "empty", "No caption passes these filters."));
    document.getElementById("count").textContent =
      `${count.format(matches.length)} of ${count.format(data.captions.length)} captions`;
    document.getElementById("page").textContent = `page ${count.format(page + 1)} of ${count.format(n_pages)}`;
    previous.disabled = page === 0;
    next.disabled = page + 1 >= n_pages;
  }

  function update(wanted = 0) {
    const start = performance.now();
    matches = find(filters());
    page = Math.min(wanted, Math.max(0, Math.ceil(matches.length / PAGE) - 1));
    show();
    performance.measure("gallery", { start });
  }

  function turn(step) {
    const last = Math.ceil(matches.length / PAGE) - 1;
    if (page + step < 0 || page + step > last) return false;
    page += step;
    show();
    save();
    return true;
  }

  // ---- the address keeps the filters, so that a view can be shared

  function save() {
    const changed = Object.entries({ ...filters(), page: String(page + 1) }).filter(
      ([name, value]) => value !== (name === "page" ? "1" : defaults[name]),
    );
    const query = new URLSearchParams(changed).toString();
    history.replaceState(null, "", `#gallery${query && `&${query}`}`);
  }

  function restore() {
    if (!location.hash.startsWith("#gallery&")) return;
    const saved = new URLSearchParams(location.hash.slice("#gallery&".length));
    for (const [name, fallback] of Object.entries(defaults)) {
      const field = form.elements[name];
      const value = saved.get(name) ?? fallback;
      field.value = field.type === "number" ? bound(value, fallback) : value;
      if (field.selectedIndex < 0) field.value = fallback;
    }
    update(bound(saved.get("page"), 1) - 1);
    document.getElementById("gallery").scrollIntoView();
  }

  // ---- keys

  function focusCard(index) {
    list.querySelectorAll(".card")[index]?.focus();
  }

  function move(step) {
    const cards = [...list.querySelectorAll(".card")];
    const here = cards.indexOf(document.activeElement?.closest(".card"));
    const there = here < 0 ? 0 : here + step;
    if (cards[there]) cards[there].focus();
    else if (turn(step)) focusCard(step > 0 ? 0 : PAGE - 1);
  }

  const onCard = () => document.activeElement?.closest(".card");
  const KEYS = {
    j: () => move(1),
    k: () => move(-1),
    ArrowDown: () => onCard() && (move(1), true),
    ArrowUp: () => onCard() && (move(-1), true),
    n: () => turn(1) && focusCard(0),
    p: () => turn(-1) && focusCard(0),
    "/": () => form.elements.search.focus(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const search = form.elements.search;
    if (event.key === "Escape" && event.target === search) {
      search.value = "";
      changed();
      return;
    }
    const typing = event.target.closest("input, select, textarea");
    if (typing || !document.getElementById("keys").checked || !KEYS[event.key]) return;
    if (KEYS[event.key]() !== null) event.preventDefault();
  });

  // ---- events

  let timer;
  function changed() {
    clearTimeout(timer);
    update();
    save();
  }
  form.addEventListener("input", (event) => {
    clearTimeout(timer);
    if (event.target.tagName === "SELECT") changed();
    else timer = setTimeout(changed, DEBOUNCE);
  });
  form.addEventListener("reset", () => setTimeout(changed));
  form.addEventListener("submit", (event) => event.preventDefault());
  previous.addEventListener("click", () => turn(-1) && focusCard(0));
  next.addEventListener("click", () => turn(1) && focusCard(0));
  addEventListener("hashchange", restore);

  update();
  restore();
})();
