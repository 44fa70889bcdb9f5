// SPDX-License-Identifier: MIT
#pragma once

/// Marks what a shared libuvif-netfront shows; everything else in it is hidden.
#define UVIF_EXPORT [[gnu::visibility("default")]]
