import { type Finding, matches, type Tree } from "./finding.ts";

/** Words by which a reader knows that a page is not done. Each is a defect of the page or of what it describes. */
const unfinished: readonly (readonly [pattern: RegExp, reason: string])[] = [
  [/\b(TODO|FIXME|XXX|TBD|WIP|HACK)\b/, "an unfinished mark: do it, or say what is not supported"],
  [/\b(coming soon|under construction|work in progress|watch this space|stay tuned)\b/i, "a promise without a date"],
  [
    /\b(not|isn't|aren't) (implemented|written|supported|wired|hooked up) yet\b|\b(is|are) not yet (implemented|written|supported|wired)\b|\bnot (yet )?implemented\b/i,
    "say what is not supported, not that it may be later",
  ],
  [/\bnot built yet\b/i, "a state: it belongs into the table of states in the README"],
  [/^#+ *(not yet|later|future work|roadmap|to ?do)\b/im, "a list of wishes: say what is not supported and why"],
  [/\b(will|shall) be (added|implemented|supported|documented|written)\b/i, "a promise: describe what is there"],
  [/\b((is|are|remains) to be (done|written|decided|defined|determined)|fill (this )?in)\b/i, "a gap in the page"],
  [/\b(best[- ]effort)\b/i, "says nothing: what is promised, and what is not?"],
  [
    /\b(hopefully|should (just )?work|more or less|as far as I know)\b/i,
    "a guess: run it, and say what was seen",
  ],
  [/\blorem ipsum\b|\bfoo ?bar ?baz\b/i, "text of a template"],
];

/** The same in the code of what ships, where fewer words say it for sure. */
const unfinishedCode: readonly (readonly [pattern: RegExp, reason: string])[] = [
  [/\b(TODO|FIXME|XXX|HACK)\b/, "an unfinished mark in what ships"],
  [
    /\bnot (yet )?implemented\b|\bnot implemented yet\b|\bnot yet supported\b/i,
    "shipped code that says it is not there",
  ],
  [/\bbest[- ]effort\b/i, "says nothing: what is promised, and what is not?"],
  [/\b(stubbed|dummy (data|value|answer)|fake (data|answer|result)|hard-?coded (answer|result|value))\b/i, "a stub"],
];

/** Pages that people read: everything but generated reference and texts of tests. */
export const isPage = (file: string): boolean =>
  file.endsWith(".md") && !file.includes("/testdata/") && !file.startsWith("docs/reference/config/");

/** What ships of the code: no tests, no benches, nothing generated, none of the repository's own tools. */
export const isShipped = (file: string): boolean =>
  /^(services|agents|lib|cli|proto|nix)\//.test(file) && /\.(ts|proto|nix)$/.test(file) &&
  !/^(cli\/dev|lib\/testing|proto\/gen|nix\/(check|stub))\//.test(file) &&
  !/_(test|bench|test_support|main_test)\.ts$/.test(file) &&
  !/\/(test_[a-z0-9_]+\.ts|sim|testdata)/.test(file);

/** Its table says of every part of the mission whether it is there: the one place for "not built yet". */
const statePage = "README.md";

/** Unfinished wording in pages and in what ships. */
export function judgeWording(tree: Tree): Finding[] {
  const findings: Finding[] = [];
  for (const [file, text] of tree) {
    const patterns = isPage(file) ? unfinished : isShipped(file) ? unfinishedCode : [];
    for (const [pattern, reason] of patterns) {
      for (const { line, text: found, whole } of matches(text, pattern)) {
        if (file === statePage && whole.startsWith("| ")) continue;
        findings.push({ file, line, text: found, reason });
      }
    }
  }
  return findings;
}
