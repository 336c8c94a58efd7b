import { invalidField } from "@ultracloud/base";

const sshKeyCharsMax = 8 * 1024;
const pattern = /^(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\r\n]*)?$/;

/** One public key as it stands in authorized_keys, trimmed. Options before it could run commands: they are refused. */
export function checkSshKey(text: string, field: string): string {
  const key = text.trim();
  if (key.length <= sshKeyCharsMax && pattern.test(key) && namesItsType(key)) return key;
  throw invalidField(field, "Cannot use the SSH key: wanted one line as in authorized_keys, without options");
}

/** The encoded key begins with the name of its type (RFC 4253, 6.6): a cut or mistyped one does not. */
function namesItsType(key: string): boolean {
  const [type, encoded] = key.split(" ");
  try {
    const bytes = Uint8Array.fromBase64(encoded!);
    const length = new DataView(bytes.buffer).getUint32(0);
    return length === type!.length && new TextDecoder().decode(bytes.subarray(4, 4 + length)) === type;
  } catch {
    return false;
  }
}

/** "SHA256:..." as ssh-keygen prints it. */
export async function fingerprintOf(key: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", Uint8Array.fromBase64(key.split(" ")[1]!));
  return `SHA256:${new Uint8Array(digest).toBase64({ omitPadding: true })}`;
}
