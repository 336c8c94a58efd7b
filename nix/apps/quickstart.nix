# Boots the trial VM, waits until it says on its console that its components are ready, and ends it. The exit code is the
# smoke test's. ULTRACLOUD_QUICKSTART_KEEP_VM=1 leaves it running in the foreground.
{ pkgs, vm }:
pkgs.writeShellApplication {
  name = "single-node-quickstart";
  runtimeInputs = [ pkgs.coreutils pkgs.gnugrep ];
  text = ''
    # A device node proves nothing: some hosts' /dev/kvm lets no guest boot. Emulation is slow but sure.
    if [ ! -w /dev/kvm ] || [ -n "''${ULTRACLOUD_QUICKSTART_TCG:-}" ]; then
      export QEMU_OPTS="''${QEMU_OPTS:-} -machine accel=tcg -smp 1"
      seconds=1800
    else
      seconds=300
    fi
    seconds="''${ULTRACLOUD_QUICKSTART_SECONDS:-$seconds}"
    dir=$(mktemp -d)
    trap 'kill "''${pid:-}" 2> /dev/null || true; rm -rf "$dir"' EXIT
    export NIX_DISK_IMAGE="$dir/disk.qcow2" TMPDIR="$dir"
    log="$dir/console.log"
    ${vm}/bin/run-ultracloud-vm -display none -serial "file:$log" &
    pid=$!
    echo "booting the trial VM (at most $seconds s); its console: $log"
    for _ in $(seq 1 "$seconds"); do
      if grep -q 'ULTRACLOUD_QUICKSTART passed' "$log" 2> /dev/null; then verdict=passed; break; fi
      if grep -q 'ULTRACLOUD_QUICKSTART failed' "$log" 2> /dev/null; then verdict=failed; break; fi
      if ! kill -0 "$pid" 2> /dev/null; then verdict=ended; break; fi
      sleep 1
    done
    grep -o 'ULTRACLOUD_QUICKSTART .*' "$log" || true
    case "''${verdict:-late}" in
      passed) ;;
      failed) exit 1 ;;
      ended) echo "the VM ended before it was ready; the last of its console:"; tail -n 20 "$log"; exit 1 ;;
      late) echo "not ready after $seconds s; the last of the console:"; tail -n 20 "$log"; exit 1 ;;
    esac
    if [ -n "''${ULTRACLOUD_QUICKSTART_KEEP_VM:-}" ]; then
      echo "the VM goes on; Ctrl-C ends it"
      wait "$pid"
    fi
  '';
}
