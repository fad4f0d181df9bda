// Which bits a training step gives.
#pragma once

namespace bitstair::core {

// Part of every stage's key and of every numeric profile; goes up whenever the same spec would give other bits.
inline constexpr int kNumericsVersion = 6;

}  // namespace bitstair::core
