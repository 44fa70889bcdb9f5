// SPDX-License-Identifier: MIT

/// libxenstore closes its descriptor from two threads at once when the store dies (its reader thread, and a caller whose
/// write failed). It is not ours to mend, so test programs in which a store dies link this file.
extern "C" __attribute__((visibility("default"))) const char* __tsan_default_suppressions() {
    return "race:libxenstore.so\n";
}
