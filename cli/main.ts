import { proposeCompletions, run } from "@stricli/core";
import { buildUc } from "./app.ts";
import { exitCodes } from "./frame/exit_codes.ts";
import { terminalIo, type UcContext } from "./frame/io.ts";

if (Deno.args[0] === "dev") {
  // The repository's own tools have their own command line; they are loaded only when asked for.
  const { main } = await import("./dev/main.ts");
  Deno.exit(await main(Deno.args.slice(1)));
}

const interrupt = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.addSignalListener(signal, () => interrupt.abort(new Error(`Stopped by ${signal}`)));
}

const io = terminalIo(interrupt.signal);
const words = Deno.args[0] === "__complete" ? Deno.args.slice(Deno.args[1] === "--" ? 2 : 1) : Deno.args;
const app = await buildUc(words);
const context: UcContext = {
  io,
  process: {
    stdout: { write: io.out },
    stderr: { write: io.err },
    env: { NO_COLOR: Deno.env.get("NO_COLOR"), STRICLI_NO_COLOR: Deno.stdout.isTerminal() ? undefined : "1" },
  },
};

if (Deno.args[0] === "__complete") {
  for (const found of await proposeCompletions(app, words, context)) io.out(found.completion + "\n");
  Deno.exit(0);
}
await run(app, words, context);
const code = Number(context.process.exitCode ?? 0);
// The parser reports its own failures with negative codes; to a script they are one thing: wrong usage.
Deno.exit(code < 0 ? exitCodes.usage : code);
