import assert from "node:assert/strict";
import { test } from "node:test";
import { WatchSocket } from "../../web/socket.js";
import { installBrowser } from "./fakes.mjs";

/** How long the socket takes to come back after being lost, with the random part at its longest. */
function comesBackAfter(t, sockets) {
  const before = sockets.length;
  let waited = 0;
  sockets.at(-1).onclose({ code: 1006, reason: "" });
  while (sockets.length === before) {
    t.mock.timers.tick(250);
    waited += 250;
  }
  return waited;
}

test("a welcome alone does not make the backoff begin anew; five healthy seconds do", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  t.mock.method(Math, "random", () => 1);
  const { sockets } = installBrowser(t);
  const listener = () => {};
  const watch = new WatchSocket("film", null, { control: listener, init: listener, segment: listener, connection: listener });
  const waits = [1, 2, 3, 4].map(() => {
    sockets.at(-1).say({ type: "welcome", cursor: 0, video: {} });
    t.mock.timers.tick(1000);
    return comesBackAfter(t, sockets);
  });
  assert.deepEqual(waits, [250, 500, 1000, 2000]);
  sockets.at(-1).say({ type: "welcome", cursor: 0, video: {} });
  t.mock.timers.tick(5000);
  assert.equal(comesBackAfter(t, sockets), 250);
  watch.close();
});

test("whether one is live is said when it changes, and again on coming back", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { sockets } = installBrowser(t);
  const listener = () => {};
  const watch = new WatchSocket("film", null, { control: listener, init: listener, segment: listener, connection: listener });
  sockets[0].onopen();
  for (const live of [true, true, false, true]) watch.setLive(live);
  sockets[0].onclose({ code: 1006, reason: "" });
  watch.setLive(true);
  t.mock.timers.tick(1000);
  sockets[1].onopen();
  const said = sockets.map(({ sent }) => sent.map(({ type, live }) => [type, live]));
  assert.deepEqual(said, [[["hello", false], ["live", true], ["live", false], ["live", true]], [["hello", true]]]);
  watch.close();
});
