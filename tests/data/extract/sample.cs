using System;
using Json = Newtonsoft.Json;
using static System.Math;

namespace Company.Product
{
    /// <summary>A box.</summary>
    [Serializable]
    public abstract partial class Box<T> : Base, IShape where T : class
    {
        public const int Limit = 3;
        private readonly List<T> items = new(), more;
        public int Size { get; set; } = 1;
        public string this[int i] => items[i];
        public event EventHandler Opened;
        public delegate void Visit(Box<T> box);

        public Box(int size) : base(size) { var local = size; }
        ~Box() { }

        // Opens.
        [Obsolete]
        public async Task<int> Open(bool force) { int hidden = 1; int Nested(int x) => x; return hidden; }
        public abstract void Go();
        public static Box<T> operator +(Box<T> a, Box<T> b) => a;
        public static implicit operator int(Box<T> a) => 1;
        enum Level { Low, High = 2 }
        struct Inner { public int X; }
    }

    interface IShape { double Area(); string Name { get; } }
    public record Point(int X, int Y);
    public record struct Pair { }
}

namespace Other { static class Extensions { public static void Run(this string s) { } } }
