//! What sampled blocks stand for: `docs/recording.md`, "Sampling".

/// Estimated numbers of blocks and bytes, and how far they may be off.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Estimate {
    /// Blocks.
    pub blocks: f64,
    /// Bytes that were asked for.
    pub bytes: f64,
    /// The variances of both.
    variance: (f64, f64),
}

impl Estimate {
    /// Counts a sampled block of `size` bytes, where one allocation is for `sample` bytes on average.
    ///
    /// ```
    /// use gdb_leak::recording::Estimate;
    /// let mut estimate = Estimate::default();
    /// // One byte in four starts a sample: one block of a byte stands for about four and a half.
    /// estimate.add(1, 4);
    /// assert!((estimate.blocks - 1.0 / (1.0 - (-0.25_f64).exp())).abs() < 1e-9);
    /// ```
    pub fn add(&mut self, size: u64, sample: u64) {
        // Numbers of bytes fit into what is exact of a float, or their last digits do not matter.
        #[allow(clippy::cast_precision_loss)]
        let (bytes, each) = (size as f64, sample.max(1) as f64);
        // The probability that the block was recorded.
        let chance = -(-bytes.max(1.0) / each).exp_m1();
        let spread = (1.0 - chance) / (chance * chance);
        self.blocks += 1.0 / chance;
        self.bytes += bytes / chance;
        self.variance.0 += spread;
        self.variance.1 += bytes * bytes * spread;
    }

    /// The bytes as a whole number.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn whole_bytes(&self) -> u64 {
        self.bytes.round() as u64
    }

    /// The standard error of the number of blocks.
    #[must_use]
    pub fn blocks_error(&self) -> f64 {
        self.variance.0.sqrt()
    }

    /// The standard error of the number of bytes.
    #[must_use]
    pub fn bytes_error(&self) -> f64 {
        self.variance.1.sqrt()
    }
}
