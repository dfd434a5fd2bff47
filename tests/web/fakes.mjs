/** Just enough of a browser for the socket and the player. */

/** Puts it in place for the whole test file. @param {import("node:test").TestContext} t */
export function installBrowser(t) {
  const sockets = [];
  const sources = [];

  class FakeSocket {
    static OPEN = 1;
    readyState = 1;
    sent = [];
    constructor() {
      sockets.push(this);
    }
    send(text) {
      this.sent.push(JSON.parse(text));
    }
    close() {
      this.readyState = 3;
    }
    say(message) {
      this.onmessage({ data: JSON.stringify(message) });
    }
    give(kind, { rendition = 0, index = 0, revision = 0, init = 1, seq = 0, bytes = [1] }) {
      const view = new DataView(new ArrayBuffer(20 + bytes.length));
      [1, kind, rendition].forEach((byte, place) => view.setUint8(place, byte));
      [index, revision, init, seq].forEach((word, place) => view.setUint32(4 + 4 * place, word));
      new Uint8Array(view.buffer, 20).set(bytes);
      this.onmessage({ data: view.buffer });
    }
    get acks() {
      return this.sent.filter(({ type }) => type === "ack").map(({ seq }) => seq);
    }
  }

  class FakeSourceBuffer extends EventTarget {
    updating = false;
    appended = [];
    appendBuffer(bytes) {
      this.updating = true;
      this.appended.push(bytes[0]);
    }
    remove() {
      throw new TypeError("duration is NaN");
    }
    finish() {
      this.updating = false;
      this.dispatchEvent(new Event("updateend"));
    }
  }

  class FakeSource extends EventTarget {
    static isTypeSupported = () => true;
    readyState = "closed";
    buffer = new FakeSourceBuffer();
    constructor() {
      super();
      sources.push(this);
    }
    addSourceBuffer() {
      return this.buffer;
    }
    endOfStream() {
      this.readyState = "ended";
    }
    open() {
      this.readyState = "open";
      this.dispatchEvent(new Event("sourceopen"));
    }
  }

  const page = { document: { baseURI: "http://here/" }, addEventListener() {}, removeEventListener() {} };
  Object.assign(globalThis, page, { WebSocket: FakeSocket, MediaSource: FakeSource });
  t.mock.method(URL, "createObjectURL", () => "blob:film");
  t.mock.method(URL, "revokeObjectURL", () => {});
  return { sockets, sources };
}

/** A <video>; `buffered` is what the test says it is. */
export class FakeVideo extends EventTarget {
  currentTime = 0;
  readyState = 4;
  seeking = false;
  paused = true;
  ended = false;
  error = null;
  playbackRate = 1;
  src = "";
  ranges = [];
  get buffered() {
    return { length: this.ranges.length, start: (i) => this.ranges[i][0], end: (i) => this.ranges[i][1] };
  }
  async play() {
    this.paused = false;
  }
  pause() {
    this.paused = true;
  }
  removeAttribute() {}
  load() {}
}
