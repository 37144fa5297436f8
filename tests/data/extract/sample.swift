import Foundation
import struct UIKit.CGFloat

let limit = 3
var counter: Int = 0, other = 1
typealias Visit = (Box<Int>) -> Void

/// A box.
///
/// It holds.
@objc public class Box<T: Base>: Base, Shape {
    static let max = 10
    private(set) var size: Int { didSet { let hidden = 1 } }
    lazy var items: [T] = { let local = 1; return [] }()
    let a = 1, b = 2

    init(size: Int) { self.size = size; let local = size }
    convenience init?(name: String) { return nil }
    deinit { }

    // Opens.
    @discardableResult
    override func open<R>(_ force: Bool, with lid: String = "") throws -> R? { func nested() {}; let hidden = 1; return nil }
    static func create() -> Box { Box(size: 1) }
    subscript(index: Int) -> T { return items[index] }
    static func == (a: Box, b: Box) -> Bool { true }
    struct Inner { var x = 1 }
}

protocol Shape: AnyObject { associatedtype Item; var name: String { get }; func area() -> Double; init(x: Int) }
enum Level: Int { case low = 1, high; indirect case nested(Level); var label: String { "x" } }
struct Point { let x: Int; var y: Int; mutating func move(dx: Int) { y += dx } }
extension Box where T == Int { func sum() -> Int { 0 } }
extension String: Shape { var shout: String { uppercased() } }
actor Worker { func run() async { await go() } }
func top(a: Int, _ rest: Int...) -> Int { return a }
infix operator <+>: AdditionPrecedence
