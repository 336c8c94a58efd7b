/**
 * The least that a request costs any server of this runtime here: a bare `Deno.serve` that reads the same request and
 * answers the same bytes. What it reaches beside PostgreSQL is the most that flaredb could reach on one thread.
 */
export interface Floor extends AsyncDisposable {
  readonly url: string;
  readonly pid: number;
}

/** Starts it as a process of its own, under the same flags of V8. */
export async function startFloor(answer: Uint8Array, v8: readonly string[]): Promise<Floor> {
  const args = ["run", "-A", "--quiet", `--v8-flags=${v8.join(",")}`, new URL(import.meta.url).pathname];
  const child = new Deno.Command(Deno.execPath(), { args: [...args, answer.toHex()], stdout: "piped" }).spawn();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const { value } = await reader.read();
  await reader.cancel();
  return {
    url: `http://127.0.0.1:${Number(value)}`,
    pid: child.pid,
    async [Symbol.asyncDispose]() {
      child.kill();
      await child.status;
    },
  };
}

if (import.meta.main) {
  const answer = Uint8Array.fromHex(Deno.args[0]!);
  const headers = { "content-type": "application/proto" };
  Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: ({ port }) => console.log(port) }, async (request) => {
    await request.bytes();
    return new Response(answer, { headers });
  });
}
