// Reads addresses as the page's script does, without a browser: JSON on standard input, the states on standard output.
const fs = require("node:fs");
const vm = require("node:vm");

const { assets, schema, given, hashes } = JSON.parse(fs.readFileSync(0, "utf8"));
const stored = new Map();
const storage = { getItem: (name) => stored.get(name) ?? null, setItem: (name, value) => { stored.set(name, value); } };
const location = { pathname: "/", search: "", hash: "" };
const world = {
  location, localStorage: storage, sessionStorage: storage, performance, structuredClone,
  history: { replaceState: (_state, _title, address) => { location.hash = address.slice(1); } },
  Widgets: { publish: () => {} },
};
world.window = world.top = world;
vm.createContext(world);
for (const name of ["schema.js", "state.js"]) {
  vm.runInContext(`${fs.readFileSync(`${assets}/${name}`, "utf8")}\n${name === "state.js" ? "this.State = State;" : ""}`, world);
}
const answers = hashes.map((hash) => {
  location.hash = `#${hash}`;
  const begun = performance.now();
  try {
    world.State.begin(given, schema);
    world.State.remember();
    const state = structuredClone(world.State.now());
    const own = structuredClone(world.State.own());
    world.State.begin(given, schema); // the address that it made of it says the same
    return { state, own, again: JSON.stringify(world.State.own()) === JSON.stringify(own), took: performance.now() - begun };
  } catch (fault) {
    return { fault: String(fault?.stack) };
  }
});
process.stdout.write(JSON.stringify(answers));
