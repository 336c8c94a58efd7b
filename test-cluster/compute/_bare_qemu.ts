/** QEMU without any of ours, with the arguments that vm-agent gave it: what the same guest costs by itself. */

/** Arguments of a running process. */
export async function argumentsOf(pid: number): Promise<string[]> {
  return (await Deno.readTextFile(`/proc/${pid}/cmdline`)).split("\0").slice(0, -1);
}

/**
 * Starts QEMU with these arguments of a stopped VM again, its sockets and files in `dir`, its processors running at
 * once; answers milliseconds until `marker` stands on the serial line.
 */
export async function bootBare(args: readonly string[], runDir: string, dir: string, marker: string): Promise<number> {
  const log = `${dir}/serial.log`;
  await Deno.mkdir(dir, { recursive: true });
  const own = args.slice(1).filter((arg) => arg !== "-S").map((arg) => arg.replaceAll(runDir, dir))
    .map((arg) => arg.replace(/logfile=[^,]*/, `logfile=${log}`));
  await Deno.writeTextFile(log, "");
  const start = performance.now();
  const child = new Deno.Command(args[0]!, { args: own, stdin: "null", stdout: "null", stderr: "piped" }).spawn();
  const words = new Response(child.stderr).text();
  try {
    for (;;) {
      if ((await Deno.readTextFile(log)).includes(marker)) return performance.now() - start;
      if (performance.now() - start > 60_000) throw new Error("bare QEMU does not boot");
      const ended = await Promise.race([child.status, new Promise<undefined>((r) => setTimeout(r, 10))]);
      if (ended) throw new Error(`bare QEMU ended with ${ended.code}: ${(await words).slice(0, 400)}`);
    }
  } finally {
    try {
      child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await child.status;
    await words;
  }
}
