/** The DevTools protocol of a headless Chromium: as much as a login needs. */
export interface Browser extends AsyncDisposable {
  /** Sends a command to the page. */
  send<T = Record<string, unknown>>(method: string, parameters?: Record<string, unknown>): Promise<T>;
  /** Goes to the address and waits until the page has loaded. */
  goto(url: string): Promise<void>;
  /** The value of an expression in the page. */
  evaluate<T>(expression: string): Promise<T>;
  /** Presses a key: "Tab", "Enter". */
  press(key: "Tab" | "Enter"): Promise<void>;
  type(text: string): Promise<void>;
}

const answerMsMax = 30_000;

/** Path of Chromium; undefined when this machine has none. */
export async function findChromium(): Promise<string | undefined> {
  for (const path of ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]) {
    if (await Deno.stat(path).then((s) => s.isFile, () => false)) return path;
  }
  return undefined;
}

/** Starts the browser with a fresh profile and one page of the given width. */
export async function startChromium(
  path: string,
  o: { readonly width: number; readonly height: number },
): Promise<Browser> {
  const stack = new AsyncDisposableStack();
  try {
    const profile = await Deno.makeTempDir({ prefix: "uc-chromium-" });
    stack.defer(() => removeSoon(profile));
    const child = new Deno.Command(path, {
      args: [
        "--headless=new",
        // Tests run as root in containers, where the sandbox cannot start; it opens only pages of this test.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        `--user-data-dir=${profile}`,
        "--remote-debugging-port=0",
        "about:blank",
      ],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    let drained = Promise.resolve();
    stack.defer(async () => {
      try {
        child.kill("SIGKILL");
      } catch {
        // Ended already.
      }
      await child.status;
      await drained;
    });
    const reader = child.stderr.getReader();
    const port = await debuggingPort(reader);
    // Read on, or the browser would stop at a full pipe.
    drained = (async () => {
      while (!(await reader.read()).done);
    })().catch(() => {});
    const targets = await (await fetch(`http://127.0.0.1:${port}/json/list`)).json() as {
      type: string;
      webSocketDebuggerUrl: string;
    }[];
    const connection = await connect(targets.find((t) => t.type === "page")!.webSocketDebuggerUrl);
    stack.defer(() => connection.close());
    const { send, once } = connection;
    await send("Page.enable");
    await send("Emulation.setDeviceMetricsOverride", { ...o, deviceScaleFactor: 1, mobile: true });
    const press: Browser["press"] = async (key) => {
      const codes = { Tab: 9, Enter: 13 };
      const event = { key, code: key, windowsVirtualKeyCode: codes[key], ...(key === "Enter" ? { text: "\r" } : {}) };
      await send("Input.dispatchKeyEvent", { type: "keyDown", ...event });
      await send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
    };
    return {
      send,
      press,
      async goto(url) {
        const loaded = once("Page.loadEventFired");
        await send("Page.navigate", { url });
        await loaded;
      },
      async evaluate<T>(expression: string) {
        const answer = await send<{ result: { value: T }; exceptionDetails?: unknown }>("Runtime.evaluate", {
          expression,
          returnByValue: true,
        });
        if (answer.exceptionDetails) throw new Error(`Cannot evaluate ${expression}`);
        return answer.result.value;
      },
      type: async (text) => void await send("Input.insertText", { text }),
      [Symbol.asyncDispose]: () => stack.disposeAsync() as Promise<void>,
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

async function debuggingPort(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error(`Cannot start Chromium: ${text}`);
    text += decoder.decode(value, { stream: true });
    const port = /DevTools listening on ws:\/\/127\.0\.0\.1:(\d+)\//.exec(text)?.[1];
    if (port !== undefined) return port;
  }
}

async function connect(url: string) {
  const socket = new WebSocket(url);
  await new Promise<void>((resolve, reject) => {
    socket.onopen = () => resolve();
    socket.onerror = () => reject(new Error("Cannot reach Chromium"));
  });
  let last = 0;
  const waiting = new Map<number, (message: { result?: unknown; error?: { message: string } }) => void>();
  const listeners = new Map<string, () => void>();
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.id === undefined) listeners.get(message.method)?.();
    else {
      waiting.get(message.id)?.(message);
      waiting.delete(message.id);
    }
  };
  const limited = <T>(what: string, work: Promise<T>): Promise<T> => {
    let timer: ReturnType<typeof setTimeout>;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`Chromium did not answer ${what} in time`)), answerMsMax);
    });
    return Promise.race([work, late]).finally(() => clearTimeout(timer));
  };
  return {
    send<T = Record<string, unknown>>(method: string, params: Record<string, unknown> = {}): Promise<T> {
      const id = ++last;
      return limited(
        method,
        new Promise<T>((resolve, reject) => {
          waiting.set(id, (m) => m.error ? reject(new Error(`${method}: ${m.error.message}`)) : resolve(m.result as T));
          socket.send(JSON.stringify({ id, method, params }));
        }),
      );
    },
    once: (event: string) =>
      limited(
        event,
        new Promise<void>((resolve) => {
          listeners.set(event, () => {
            listeners.delete(event);
            resolve();
          });
        }),
      ),
    async close() {
      if (socket.readyState === WebSocket.CLOSED) return;
      const closed = new Promise<void>((resolve) => socket.onclose = () => resolve());
      socket.close();
      await closed;
    },
  };
}

/** The browser's children may write for a moment after it was killed. */
async function removeSoon(dir: string): Promise<void> {
  for (let left = 20;; left--) {
    try {
      return await Deno.remove(dir, { recursive: true });
    } catch (error) {
      if (left === 0) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}
