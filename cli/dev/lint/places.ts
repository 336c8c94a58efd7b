/** Which rules a file is under, decided by its path alone. */

const testFile = /(_test|_bench|_bench_main)\.ts$/;
const testPart = /\/(testdata|testing)\/|_test_support\.ts$|\/test_[a-z0-9_]+\.ts$/;

/** True for a file whose tests `deno test` runs. */
export function declaresTests(filename: string): boolean {
  return testFile.test(filename);
}

/** True for tests, benchmarks and what they are made of, which may use the machine they run on. */
export function isTestFile(filename: string): boolean {
  return testFile.test(filename) || testPart.test(filename);
}

/** True for a file whose every input must come in through its parameters: `domain/**` and lib/raft. */
export function isPureFile(filename: string): boolean {
  if (isTestFile(filename)) return false;
  return /\/(services|agents|lib)\/[^/]+\/domain\//.test(filename) || /\/lib\/raft\//.test(filename);
}

/** True for the Raft core, which is a function of its messages and knows no waiting. */
export function isCoreFile(filename: string): boolean {
  return !isTestFile(filename) && /\/lib\/raft\/core\//.test(filename);
}
