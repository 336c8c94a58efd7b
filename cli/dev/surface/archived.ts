import { type Finding, matches, type Tree } from "./finding.ts";

/** Helpers of the mission's ancestry that are no part of this product and must not come back by the side door. */
export const archivedNames = [
  "netboot-worker",
  "netboot-base",
  "pxe-server",
  "vm-smoke-target",
  "firecracker",
  "mvisor",
  "k8shost-cni",
  "k8shost-csi",
  "k8shost-controllers",
  "lightningstor-csi",
] as const;

const anyName = new RegExp(`(?<![\\w-])(${archivedNames.join("|")})(?![\\w-])`, "i");
/** A page may name them to say that they are out. */
const saysOut =
  /\b(archived|no part|not (a )?part|outside|removed|never|not supported|do(es)? not exist|is not|are not)\b/i;

/** Archived names as files, components, outputs or supported things. */
export function judgeArchived(tree: Tree): Finding[] {
  const findings: Finding[] = [];
  for (const [file, text] of tree) {
    // The guard, its twin in Nix and what tests them have to know the names.
    if (/^(cli\/dev\/surface|nix\/(checks|check))\//.test(file)) continue;
    const inPath = anyName.exec(file.replaceAll("_", "-").replaceAll("/", " "));
    if (inPath !== null) {
      findings.push({ file, line: 0, text: inPath[1]!, reason: "an archived helper is in the tree again" });
    }
    for (const { line, text: found, whole } of matches(text, anyName)) {
      if (file.endsWith(".md") && saysOut.test(whole)) continue;
      findings.push({ file, line, text: found, reason: "an archived helper, named as if it were part of the product" });
    }
  }
  return findings;
}
