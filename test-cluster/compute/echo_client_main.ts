/**
 * Holds one TCP connection to a guest's echo page: sends a numbered line every so often and reads them back in order.
 * Says how it goes twice a second, one JSON object a line; ends with an error when a line is wrong or the connection is
 * closed. Arguments: host and port.
 */
import { utf8 } from "@ultracloud/base";

const everyMs = 10;
const sayEveryMs = 500;
const bodyBytes = 1_000_000_000;
const [hostname, port] = Deno.args;

const connection = await Deno.connect({ hostname: hostname!, port: Number(port) });
let sent = 0;
let received = 0;
/** Longest time without a line, since it was last said. */
let gapMs = 0;
let lastMs = performance.now();
const gap = () => Math.max(gapMs, performance.now() - lastMs);

async function write(text: string): Promise<void> {
  for (let rest = utf8.encode(text); rest.length > 0;) rest = rest.subarray(await connection.write(rest));
}

async function read(): Promise<void> {
  let text = "";
  let isHeader = true;
  const buffer = new Uint8Array(65_536);
  for (let n = await connection.read(buffer); n !== null; n = await connection.read(buffer)) {
    text += utf8.decode(buffer.subarray(0, n));
    if (isHeader) {
      const end = text.indexOf("\r\n\r\n");
      if (end < 0) continue;
      if (!/^HTTP\/1\.[01] 200 /.test(text)) throw new Error(`Cannot use the answer ${text.slice(0, 80)}`);
      isHeader = false;
      text = text.slice(end + 4);
    }
    const lines = text.split("\n");
    text = lines.pop()!;
    if (lines.length > 0) {
      gapMs = gap();
      lastMs = performance.now();
    }
    for (const line of lines) {
      if (line !== String(received)) throw new Error(`Line ${received} came as ${JSON.stringify(line.slice(0, 40))}`);
      received++;
    }
  }
  throw new Error(`The connection was closed after ${received} lines`);
}

async function send(): Promise<never> {
  await write(`POST /cgi-bin/echo HTTP/1.0\r\nContent-Length: ${bodyBytes}\r\n\r\n`);
  for (;;) {
    await write(`${sent}\n`);
    sent++;
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
}

setInterval(() => {
  console.log(JSON.stringify({ sent, received, gapMs: Math.round(gap()) }));
  gapMs = 0;
}, sayEveryMs);
await Promise.all([read(), send()]);
