/* oca for C++17: formats/oca.h with owned handles, exceptions and typed vectors. Header-only; compile oca.c
 * with it.
 *
 *     oca::File file("bundle.oca");
 *     std::vector<float> a = file.at("factor/blocks.0.attn.q/A").rows<float>(0, 16);
 *
 * Every failure throws oca::Error, which keeps the oca_status. Tensors are plain values that point into their
 * File and must not outlive it. A File may be read by several threads at once.
 */
#ifndef OCA_HPP
#define OCA_HPP

#include "formats/oca.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace oca {

class Error : public std::runtime_error {
  public:
    Error(oca_status status, const std::string &what)
        : std::runtime_error(what + ": " + oca_status_string(status)), status_(status) {}
    oca_status status() const noexcept {
        return status_;
    }

  private:
    oca_status status_;
};

/* The C++ type of each dtype that has one; f16 and bf16 have none and are read as float or as their bits. */
template <typename T> struct dtype_of;
template <> struct dtype_of<double> { static constexpr oca_dtype value = OCA_F64; };
template <> struct dtype_of<float> { static constexpr oca_dtype value = OCA_F32; };
template <> struct dtype_of<std::int8_t> { static constexpr oca_dtype value = OCA_I8; };
template <> struct dtype_of<std::uint8_t> { static constexpr oca_dtype value = OCA_U8; };
template <> struct dtype_of<std::int32_t> { static constexpr oca_dtype value = OCA_I32; };
template <> struct dtype_of<std::int64_t> { static constexpr oca_dtype value = OCA_I64; };

/* A view of elements in the archive. */
template <typename T> struct Span {
    const T *data = nullptr;
    std::size_t size = 0;
    const T *begin() const noexcept {
        return data;
    }
    const T *end() const noexcept {
        return data + size;
    }
    const T &operator[](std::size_t i) const noexcept {
        return data[i];
    }
};

class Tensor {
  public:
    const char *name() const noexcept {
        return tensor_.name;
    }
    oca_dtype dtype() const noexcept {
        return tensor_.dtype;
    }
    std::vector<std::uint64_t> shape() const {
        return {tensor_.shape, tensor_.shape + tensor_.dims};
    }
    std::uint64_t count() const noexcept {
        return tensor_.count;
    }
    std::uint64_t row_elements() const noexcept {
        return tensor_.count / tensor_.shape[0];
    }
    const oca_tensor &raw() const noexcept {
        return tensor_;
    }

    /* Rows first .. first + rows - 1 of the first dimension, converted to T. */
    template <typename T> std::vector<T> rows(std::uint64_t first, std::uint64_t rows) const {
        const std::uint64_t width = row_elements();
        if (rows > std::numeric_limits<std::size_t>::max() / sizeof(T) / width)
            throw Error(OCA_ERR_LIMIT, tensor_.name);
        std::vector<T> target(static_cast<std::size_t>(rows * width));
        const oca_status status = oca_read(file_, tensor_.index, first, rows, dtype_of<T>::value,
                                           target.data(), target.size() * sizeof(T));
        if (status != OCA_OK)
            throw Error(status, tensor_.name);
        return target;
    }
    template <typename T> std::vector<T> values() const {
        return rows<T>(0, tensor_.shape[0]);
    }

    /* The elements in place, unverified; empty where they are not stored as T, as they are, or cannot be
     * lent. */
    template <typename T> std::optional<Span<T>> borrow() const noexcept {
        const void *data = nullptr;
        if (tensor_.dtype != dtype_of<T>::value || oca_borrow(file_, tensor_.index, &data) != OCA_OK)
            return std::nullopt;
        return Span<T>{static_cast<const T *>(data), static_cast<std::size_t>(tensor_.count)};
    }

    void verify() const {
        const oca_status status = oca_verify_tensor(file_, tensor_.index);
        if (status != OCA_OK)
            throw Error(status, tensor_.name);
    }

  private:
    friend class File;
    Tensor(const oca_file *file, const oca_tensor &tensor) noexcept : file_(file), tensor_(tensor) {}
    const oca_file *file_;
    oca_tensor tensor_;
};

class File {
  public:
    explicit File(const std::string &path, const oca_options *options = nullptr) {
        open(path, options, [&](const oca_options *o) { return oca_open_path(&file_, path.c_str(), o); });
    }
    /* The caller keeps the memory alive and unchanged. */
    File(const void *data, std::size_t size, const oca_options *options = nullptr) {
        open("archive in memory", options,
             [&](const oca_options *o) { return oca_open_memory(&file_, data, size, o); });
    }
    File(const File &) = delete;
    File &operator=(const File &) = delete;
    File(File &&other) noexcept : file_(std::exchange(other.file_, nullptr)) {}
    File &operator=(File &&other) noexcept {
        if (this != &other) {
            oca_close(file_);
            file_ = std::exchange(other.file_, nullptr);
        }
        return *this;
    }
    ~File() {
        oca_close(file_);
    }

    const oca_file *get() const noexcept {
        return file_;
    }
    std::size_t size() const noexcept {
        return oca_tensor_count(file_);
    }
    Tensor operator[](std::size_t index) const {
        oca_tensor tensor;
        const oca_status status = oca_tensor_at(file_, index, &tensor);
        if (status != OCA_OK)
            throw Error(status, "tensor " + std::to_string(index));
        return Tensor(file_, tensor);
    }
    std::optional<Tensor> find(const std::string &name) const {
        oca_tensor tensor;
        if (oca_tensor_find(file_, name.c_str(), &tensor) != OCA_OK)
            return std::nullopt;
        return Tensor(file_, tensor);
    }
    /* As find, but throws where there is no such tensor. */
    Tensor at(const std::string &name) const {
        const std::optional<Tensor> tensor = find(name);
        if (!tensor)
            throw Error(OCA_ERR_NOT_FOUND, name);
        return *tensor;
    }
    std::vector<Tensor> tensors() const {
        std::vector<Tensor> all;
        for (std::size_t i = 0; i < size(); i++)
            all.push_back((*this)[i]);
        return all;
    }

    std::optional<std::string> metadata(const std::string &key) const {
        const char *value = oca_metadata(file_, key.c_str());
        return value ? std::optional<std::string>(value) : std::nullopt;
    }
    std::vector<std::pair<std::string, std::string>> metadata() const {
        std::vector<std::pair<std::string, std::string>> all;
        for (std::size_t i = 0; i < oca_metadata_count(file_); i++) {
            const char *key = nullptr, *value = nullptr;
            if (oca_metadata_at(file_, i, &key, &value) == OCA_OK)
                all.emplace_back(key, value);
        }
        return all;
    }

    /* Every checksum, and all padding. */
    void verify() const {
        std::size_t failed = 0;
        const oca_status status = oca_verify(file_, &failed);
        if (status != OCA_OK)
            throw Error(status, (*this)[failed].name());
    }

  private:
    template <typename Opener> void open(const std::string &what, const oca_options *options, Opener opener) {
        oca_fault fault = {nullptr, 0};
        oca_options own = options ? *options : oca_options{};
        if (!own.fault)
            own.fault = &fault;
        const oca_status status = opener(&own);
        if (status != OCA_OK)
            throw Error(status, own.fault->what ? what + ": " + own.fault->what : what);
    }
    oca_file *file_ = nullptr;
};

} // namespace oca

#endif
