/** Body of a test, as `Deno.test` takes it. */
export type TestBody = (t: Deno.TestContext) => void | Promise<void>;

/**
 * Registers a test that does not run and says why: the reason is part of its name, so that every run prints and counts
 * it. Use it where a host cannot prove something, never to silence a failure.
 */
export function skipTest(name: string, reason: string, fn: TestBody): void {
  if (reason.trim() === "") throw new TypeError(`Cannot skip ${name}: wanted a reason`);
  Deno.test({ name: `${name} [skipped: ${reason}]`, ignore: true, fn });
}

/** Registers a test that runs unless there is a reason not to: `testUnless("boots", kvm ? undefined : "no KVM", fn)`. */
export function testUnless(name: string, reason: string | undefined, fn: TestBody): void {
  if (reason === undefined) Deno.test(name, fn);
  else skipTest(name, reason, fn);
}

/** Why a test that drives these programs cannot run: what is not on the PATH; undefined when all are. */
export function missingPrograms(...programs: readonly string[]): string | undefined {
  const dirs = (Deno.env.get("PATH") ?? "").split(":");
  const missing = programs.filter((program) =>
    !dirs.some((dir) => {
      try {
        return Deno.statSync(`${dir}/${program}`).isFile;
      } catch {
        return false;
      }
    })
  );
  return missing.length === 0 ? undefined : `not installed: ${missing.join(", ")}`;
}
