"use strict";
const one = selector => document.querySelector(selector);
const cards = [...document.querySelectorAll(".card")];
const chips = [...document.querySelectorAll("[data-filter]")];
const search = one("input[type=search]");
const kind = one("#kind");
const sort = one("#sort");
const keys = one("#keys");
const order = new Map(cards.map((card, place) => [card, place]));

let filter = "all";
let shown = cards;
let current = null;
let laidOut = "id";

// Matches without a figure, and videos without a match, come last.
const figure = (card, name, missing) => name in card.dataset ? Number(card.dataset[name]) : missing;
const rankings = {
  id: () => 0,
  near: card => figure(card, "distance", Infinity),
  far: card => -figure(card, "distance", -Infinity),
  probability: card => figure(card, "probability", Infinity),
};

function compare(a, b) {
  const rank = rankings[sort.value];
  const [first, second] = [rank(a), rank(b)];
  return first < second ? -1 : first > second ? 1 : order.get(a) - order.get(b);
}

function show() {
  const wanted = search.value.trim().toLowerCase();
  const inOrder = [...cards].sort(compare);
  shown = inOrder.filter(card =>
    card.dataset.states.split(" ").includes(filter) &&
    (!kind || kind.value === "any" || kind.value === "=" + card.dataset.kind) &&
    card.dataset.ids.toLowerCase().includes(wanted));
  const kept = new Set(shown);
  for (const card of cards) card.hidden = !kept.has(card);
  if (laidOut !== sort.value) one(".cards").append(...inOrder); // a card that is moved loses the focus
  laidOut = sort.value;
  for (const chip of chips) chip.setAttribute("aria-pressed", chip.dataset.filter === filter);
  one("#none").hidden = shown.length > 0;
  if (!kept.has(current)) mark(null);
  tell();
}

function mark(card) {
  if (current) current.removeAttribute("aria-current");
  current = card;
  if (current) current.setAttribute("aria-current", "true");
}

function tell() {
  const place = shown.indexOf(current) + 1;
  one("#position").textContent = place ? `${place} of ${shown.length}` : `${shown.length} ${shown.length === 1 ? "video" : "videos"}`;
  const state = new URLSearchParams();
  if (filter !== "all") state.set("show", filter);
  if (kind && kind.value !== "any") state.set("kind", kind.value.slice(1));
  if (search.value.trim()) state.set("find", search.value.trim());
  if (sort.value !== "id") state.set("sort", sort.value);
  if (current) state.set("at", idOf(current));
  const fragment = state.toString();
  if (fragment !== location.hash.slice(1)) history.replaceState(null, "", "#" + fragment);
}

const idOf = card => card.dataset.ids.split("\n")[0];

// A choice that the page does not have is as good as none.
function choose(select, value, otherwise) {
  select.value = value;
  if (select.selectedIndex < 0) select.value = otherwise;
}

function readFragment() {
  const state = new URLSearchParams(location.hash.slice(1));
  const wanted = state.get("show");
  filter = chips.some(chip => chip.dataset.filter === wanted) ? wanted : "all";
  if (kind) choose(kind, state.has("kind") ? "=" + state.get("kind") : "any", "any");
  choose(sort, state.get("sort") || "id", "id");
  search.value = state.get("find") || "";
  const at = cards.find(card => idOf(card) === state.get("at"));
  mark(at || null);
  show();
  if (current) goTo(current);
}

function goTo(card) {
  mark(card);
  card.focus({preventScroll: true});
  card.scrollIntoView({block: "nearest"});
  tell();
}

// Of no video yet: the first one, in either direction.
function step(by) {
  if (!shown.length) return;
  const place = shown.indexOf(current);
  goTo(shown[place < 0 ? 0 : Math.min(Math.max(place + by, 0), shown.length - 1)]);
}

function pick(name) {
  filter = name;
  show();
}

function clear() {
  filter = "all";
  search.value = "";
  if (kind) kind.value = "any";
  show();
}

const actions = {
  j: () => step(1),
  ArrowRight: () => step(1),
  k: () => step(-1),
  ArrowLeft: () => step(-1),
  "/": () => { search.focus(); search.select(); },
  "?": () => keys.showModal(),
  Escape: clear,
};
chips.forEach((chip, place) => { actions[place + 1] = () => pick(chip.dataset.filter); });

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (keys.open) {
    if (event.key === "Escape" || event.key === "?") keys.close();
    return;
  }
  if (event.target === search) {
    if (event.key !== "Escape") return;
    search.value = "";
    search.blur();
    show();
    event.preventDefault();
    return;
  }
  const busy = event.target instanceof Element && event.target.closest("select, .scroll, summary");
  if (busy && event.key !== "Escape") return;
  if (!Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
});

for (const chip of chips) chip.addEventListener("click", () => pick(chip.dataset.filter));
for (const card of cards) card.addEventListener("click", () => { mark(card); tell(); });
for (const select of [kind, sort]) if (select) select.addEventListener("change", show);
search.addEventListener("input", show);
one("#next").addEventListener("click", () => step(1));
one("#previous").addEventListener("click", () => step(-1));
one("#help").addEventListener("click", () => keys.showModal());
keys.querySelector("button").addEventListener("click", () => keys.close());
window.addEventListener("hashchange", readFragment);
one(".bar").hidden = false;
one(".legend").open = !matchMedia("(max-width: 640px)").matches;
readFragment();
